"""A file of `torch.save` gives plain values or is refused, and takes no more memory than it has bytes."""

import io
import pickle
import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.model import torch_file
from detector.model.torch_file import NotPlainError

CONTENT = {
    "weights": OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.ones(3, dtype=torch.bfloat16)),
    "parameter": nn.Parameter(torch.ones(2)),
    "turned": torch.arange(6).reshape(2, 3).T,
    "cut": torch.arange(6)[2:4],
    "nothing": torch.zeros(0),
    "rest": [1, 2.5, None, True, ("a", {"b": (3,)}), torch.Size([2])],
}


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@pytest.mark.parametrize("is_zip", [True, False], ids=["of today", "of old"])
def test_plain_values_come_back(tmp_path: Path, is_zip: bool) -> None:
    torch.save(CONTENT, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    assert same(CONTENT, torch_file.read(tmp_path / "a.pt"))


def refused(path: Path, says: str) -> None:
    with pytest.raises(NotPlainError, match=says) as caught:
        torch_file.read(path)
    assert str(caught.value).isprintable()


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made


CANARY = "canary"
EVIL = {
    "os.system": Call(__import__("os").system, f"touch {CANARY}"),
    "eval": Call(eval, f"open('{CANARY}', 'w')"),
    "exec": Call(exec, f"open('{CANARY}', 'w')"),
    "Path.touch": Call(Path.touch, Path(CANARY)),
    "getattr": Call(getattr, "x", "upper"),
    "torch.load": Call(torch.load, CANARY),
    "torch.hub": Call(torch.hub.load_state_dict_from_url, "http://localhost/x"),
    "bytes of any number": Call(bytearray, 10**9),
    "tensor of any size": Call(torch.Tensor, 10**9),
    "encoding upon encoding": Call(__import__("codecs").encode, b"xx", "hex"),
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("form", ["zip", "old", "raw"])
def test_a_call_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    if form == "raw":
        path.write_bytes(pickle.dumps({"model": EVIL[name]}, protocol=2))
    else:
        torch.save({"model": EVIL[name]}, path, _use_new_zipfile_serialization=form == "zip")
    refused(path, "it asks for '[a-z_A-Z.]+', which is no plain value")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_nothing_is_tried_in_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever falls back to a loader that runs code lets the writer of the file choose it."""
    calls: list[dict[str, object]] = []

    def fail(*_: object, **options: object) -> None:
        calls.append(options)
        raise pickle.UnpicklingError("Weights only load failed")

    torch.save({}, tmp_path / "a.pt")
    monkeypatch.setattr("torch.load", fail)
    refused(tmp_path / "a.pt", "damaged, or is no file of torch.save")
    assert [options["weights_only"] for options in calls] == [True]


def _expanded(shape: tuple[int, ...]) -> Tensor:
    """As many numbers as one likes, all in the same place."""
    return torch.zeros(1).expand(shape)


def test_a_tensor_without_its_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": _expanded((200_000, 200_000))}}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 2000
    refused(tmp_path / "a.pt", "claims more numbers than it has")


def rewritten(path: Path, change: Callable[[str, bytes], bytes], *, packed: bool = False) -> None:
    """The same archive with other contents."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            archive.writestr(name, change(name, content))


@pytest.mark.parametrize("rows", [60_000, 10**9])
def test_a_shape_larger_than_its_data_is_refused(tmp_path: Path, rows: int) -> None:
    """torch makes room for it: 60,000 rows of three numbers, or gigabytes."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(70_001, 3)[:7]}, path)
    small = struct.pack("<i", 70_001 * 3)

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("/data/0"):
            return content[:84]
        if name.endswith("data.pkl"):
            # The storage has 21 numbers; the shape says otherwise.
            assert b"J" + small in content
            changed = content.replace(b"J" + small, b"J" + struct.pack("<i", 21))
            assert b"K\x07K\x03\x86" in changed
            return changed.replace(b"K\x07K\x03\x86", b"J" + struct.pack("<i", rows) + b"K\x03\x86")
        return content

    rewritten(path, change)
    refused(path, "claims more numbers|damaged")


def test_numbers_that_the_file_does_not_bring_are_refused(tmp_path: Path) -> None:
    """A file of old times may name a storage and leave it out: torch gives what happens to be in memory."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(7)}, path, _use_new_zipfile_serialization=False)
    content = io.BytesIO(path.read_bytes())
    parts: list[bytes] = []
    for _ in range(5):
        begun = content.tell()
        assert [*pickletools.genops(content)]
        parts.append(content.getvalue()[begun : content.tell()])
    number = b"K\x07N"
    assert parts[3].count(number) == 1
    parts[3] = parts[3].replace(number, b"J" + struct.pack("<i", 100_000) + b"N")
    parts[4] = pickle.dumps([], protocol=2)  # the storages that follow
    path.write_bytes(b"".join(parts))
    assert torch.load(path, weights_only=True)["w"].shape == (7,)
    refused(path, "claims more numbers than the file has")


@pytest.mark.parametrize("size", [-1, -(2**31)])
def test_a_negative_shape_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(7, 3)}, path)
    wanted = b"J" + struct.pack("<i", size) + b"K\x03\x86"
    rewritten(path, lambda _, content: content.replace(b"K\x07K\x03\x86", wanted))
    refused(path, "damaged, or is no file")


def test_a_file_that_unpacks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(1_000_000)}, path)
    rewritten(path, lambda _, content: content)
    assert torch_file.read(path)["w"].shape == (1_000_000,)
    rewritten(path, lambda _, content: content, packed=True)
    assert path.stat().st_size < 10_000
    refused(path, "unpacks to more bytes than it has")


def test_a_packed_entry_is_refused_whatever_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.rand(100)}, path)
    rewritten(path, lambda _, content: content, packed=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = bytes(60_000)  # more than what it unpacks to
    refused(path, "unpacks to more bytes than it has")


def test_an_entry_that_claims_more_bytes_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(7)}, path)
    content = bytearray(path.read_bytes())
    last = content.rindex(b"PK\x01\x02")  # in the table at the end of the archive
    content[last + 24 : last + 28] = struct.pack("<I", 10**9)
    path.write_bytes(content)
    refused(path, "unpacks to more bytes than it has")


@pytest.mark.parametrize("name", ["data.pkl", "DATA.PKL"])
def test_two_entries_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    """One reader would take the first and another the second."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(2)}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile knows that it is wrong
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"a/{name}", pickle.dumps({"model": EVIL["eval"]}, protocol=2))
    refused(path, "two of its entries have the same name")


@pytest.mark.parametrize("depth", [40, 8])
def test_a_list_of_lists_of_lists_is_refused(tmp_path: Path, depth: int) -> None:
    """A few bytes each, ten times as much in memory of whoever copies it."""
    value: object = [1]
    for _ in range(depth):
        value = [value] * 10
    torch.save(value, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "more than 1000000 values")


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    value: list[object] = []
    value.append(value)
    torch.save(value, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "more than 1000000 values")


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    places = torch.zeros(2, 1, dtype=torch.int64)
    tensor = (
        torch.zeros(3, device="meta")
        if kind == "meta"
        else torch.sparse_coo_tensor(places, torch.ones(1), (10**6, 10**6), check_invariants=True)
    )
    torch.save({"w": tensor}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "it asks for 'torch.*', which is no plain value")


def test_programs_and_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("a/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr("a/code/x.py", "import os")
    refused(tmp_path / "program.pt", "TorchScript")
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            content = pickle.dumps(EVIL["eval"], protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    refused(tmp_path / "old.pt", "damaged, or is no file of torch.save")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps(Path.cwd, protocol=4), "STACK_GLOBAL"),
        (b"(iposix\nsystem\n.", "INST"),
        (b"\x82\x01.", "EXT1"),
    ],
)
def test_names_that_do_not_stand_beside_what_asks_for_them_are_refused(
    tmp_path: Path, content: bytes, name: str
) -> None:
    """Whether or not torch knows them."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(2)}, path)
    rewritten(path, lambda entry, old: content if entry.endswith("data.pkl") else old)
    refused(path, f"its pickle has {name}, which torch.save does not write")


def test_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for is_zip in (True, False):
        torch.save({"w": torch.zeros(5, 2), "n": [1, "a"]}, path, _use_new_zipfile_serialization=is_zip)
        content = path.read_bytes()
        for length in range(0, len(content) - 1, 1 + len(content) // 60):
            path.write_bytes(content[:length])
            refused(path, "damaged, or is no file|plain value")


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape("a.pt")):
        torch_file.read(tmp_path / "a.pt")
