"""How results are written, and what is said where they cannot be."""

import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from detector import files


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space, or choose another --out"),
        (errno.EDQUOT, "free some space, or choose another --out"),
        (errno.EFBIG, "lift the limit on the size of a file (ulimit -f), or choose another --out"),
        (errno.EIO, "see whether the disk is well, or choose another --out"),
        (errno.EACCES, "choose another --out"),
        (errno.ENOTDIR, "choose another --out"),
    ],
)
def test_the_cure_is_that_of_the_cause(number: int, cure: str) -> None:
    said = files.no_output(Path("out"), OSError(number, os.strerror(number)))
    assert said == f"out: cannot be written ({os.strerror(number)}); {cure}"


@pytest.fixture
def usual_mode() -> Generator[int]:
    before = os.umask(0o027)
    yield 0o640
    os.umask(before)


def _write(path: Path, text: str) -> None:
    with files.written_whole(path) as temporary:
        temporary.unlink(missing_ok=True)  # as a library does that makes a file of its own
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o600)


def test_a_new_file_has_the_usual_permissions_whoever_wrote_it(tmp_path: Path, usual_mode: int) -> None:
    path = tmp_path / "a.bin"
    _write(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == usual_mode


def test_a_file_keeps_its_permissions(tmp_path: Path, usual_mode: int) -> None:
    path = tmp_path / "a.bin"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o664)
    assert usual_mode != 0o664
    _write(path, "new")
    assert (path.read_text(encoding="utf-8"), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o664)


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    there, link = tmp_path / "there" / "a.bin", tmp_path / "link.bin"
    there.parent.mkdir()
    there.write_text("old", encoding="utf-8")
    link.symlink_to(there)
    _write(link, "new")
    assert link.is_symlink()
    assert there.read_text(encoding="utf-8") == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.bin", "link.bin", "there"]


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "half \ud800")
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_text(encoding="utf-8") == "old"
