"""A folder is ours by its marker; nothing that is not in the list is ever removed."""

from pathlib import Path

import pytest

from detector.errors import ConfigError
from detector.out_folder import OutFolder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: OutFolder, *files: str) -> None:
    for name in files:
        folder.file(name).write_bytes(b"content")


def test_a_new_and_an_empty_folder_are_taken(tmp_path: Path) -> None:
    OutFolder.claim(tmp_path / "a" / "b", "eval")
    assert names(tmp_path / "a" / "b") == [".detector-eval"]
    (tmp_path / "c").mkdir()
    OutFolder.claim(tmp_path / "c", "predict")
    assert names(tmp_path / "c") == [".detector-predict"]


def test_a_second_run_removes_what_the_first_wrote_and_no_more(tmp_path: Path) -> None:
    out = tmp_path / "out"
    awkward = ["a.jpg", "new\nline.jpg", "half \udcff surrogate.jpg", "..b.jpg"]
    write(OutFolder.claim(out, "predict"), *awkward)
    (out / "thesis.txt").write_text("mine")
    again = OutFolder.claim(out, "predict")
    assert len(names(out)) == 6
    again.clear()
    assert names(out) == [".detector-predict", "thesis.txt"]
    write(again, "c.jpg")
    OutFolder.claim(out, "predict").clear()
    assert names(out) == [".detector-predict", "thesis.txt"]


def test_a_marker_does_not_reach_out_of_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(OutFolder.claim(out, "eval"))
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    (out / "folder").mkdir()
    (out / ".detector-eval").write_text(f'"../kept.txt"\n"{kept}"\n".."\n"folder"\n""\n17\n"cut sho')
    OutFolder.claim(out, "eval").clear()
    assert kept.exists()
    assert names(out) == [".detector-eval", "folder"]


@pytest.mark.parametrize("marker", [None, ".detector-eval"])
def test_the_folder_of_somebody_else_is_refused(tmp_path: Path, marker: str | None) -> None:
    for name in ("predictions.json", marker):
        if name is not None:
            (tmp_path / name).write_text("[]")
    with pytest.raises(ConfigError, match="nor one of an earlier `detector predict`; name another with --out"):
        OutFolder.claim(tmp_path, "predict")
    assert (tmp_path / "predictions.json").read_text() == "[]"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    for path in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(ConfigError, match="--out"):
            OutFolder.claim(path, "eval")
    assert (tmp_path / "x").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OutFolder.claim(tmp_path, "eval")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detector.files.os.fsync", full)
    with pytest.raises(
        ConfigError, match=r"cannot be written \(No space left on device\); free some space, or choose another --out"
    ):
        OutFolder.claim(tmp_path, "eval")


def test_a_file_of_the_user_is_not_written_over(tmp_path: Path) -> None:
    write(OutFolder.claim(tmp_path, "eval"), "ours.json")
    (tmp_path / "theirs.json").symlink_to("nowhere")
    folder = OutFolder.claim(tmp_path, "eval")
    folder.require_free(["ours.json", "new.json"])
    with pytest.raises(ConfigError, match=r"theirs\.json: stands where"):
        folder.require_free(["ours.json", "theirs.json"])


def test_a_failure_leaves_no_empty_folder(tmp_path: Path) -> None:
    new = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt), OutFolder.claim(new, "eval"):
        raise KeyboardInterrupt
    assert not new.exists()
    with pytest.raises(IsADirectoryError), OutFolder.claim(new, "eval") as folder:
        write(folder, "a", ".")
    assert names(new) == [".detector-eval", "a"]
