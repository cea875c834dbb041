import gc
import json
from pathlib import Path

import pytest

from detector.data import json_file
from detector.errors import DataError
from tests.unit.data import make


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\x1f\x8b\x08\x00abc", "gunzip"),
        (b"PK\x03\x04abc", "zip"),
        ('{"images": []}'.encode("utf-16"), "UTF-16"),
        ('{"images": []}'.encode("utf-16-le"), "UTF-16"),
        ('{"name": "café"}'.encode("latin-1"), "byte 0xe9 at offset 13"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b'{"images": [1, 2', "ends in the middle, at byte 16"),
        (b'{"images": [{"file_name": "a', "ends in the middle"),
        (b'{"images": []} x', "byte 15"),
        (b'{"images": [1,]}', "line 1"),
        (b"{'images': []}", "not valid JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e400}', "1e400"),
        (b'{"a": -1E+999}', "1E+999"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"images": [], "images": []}', "'images' stands twice"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        json_file.read(path)
    message = str(caught.value)
    assert str(path) in message
    assert says in message
    assert "\n" not in message
    assert path.read_bytes() == content


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        json_file.read(tmp_path / "none.json")
    with pytest.raises(DataError, match="is a directory"):
        json_file.read(tmp_path)


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(json_file.MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(DataError, match="more than the limit"):
        json_file.read(tmp_path / "x.json")


def test_a_device_is_not_read() -> None:
    with pytest.raises(DataError, match="not a regular file"):
        json_file.read(Path("/dev/zero"))


@pytest.mark.parametrize(
    "text", ['{"a": [1.5, "é"]}', '{"a": 1e308}', '{"a": {"images": 1, "b": {"images": 2}}}', "[]"]
)
def test_good_json_is_read_as_the_standard_library_does(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(text, encoding=encoding)
        assert json_file.read(path) == json.loads(text)


def test_every_cut_of_a_file_is_found(tmp_path: Path) -> None:
    whole = json.dumps(make.tree())
    path = tmp_path / "x.json"
    for length in range(1, len(whole)):
        path.write_text(whole[:length])
        with pytest.raises(DataError, match="ends in the middle"):
            json_file.read(path)


def test_the_garbage_collector_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("[]", "[1,"):
        path.write_text(text)
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            try:
                json_file.read(path)
            except DataError:
                pass
            finally:
                found = gc.isenabled()
                gc.enable()
            assert found == enabled
