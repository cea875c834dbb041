"""Files that are whole or not there."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

MODEL_SUFFIX = ".safetensors"
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""And not of the place in it."""


@contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Generator[Path]:
    """Give a temporary path beside `path`; what was written there takes its name when the block ends well.

    No reader ever meets half of it, and after a failure the earlier file stands untouched. The content is on the disk
    before the name is, so the same holds after a power cut; what is written again in a moment need not be `durable`.
    A link stays a link: what it leads to is written. The file keeps its permissions, and a new one has the usual ones.
    """
    if path.is_symlink():
        path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = (path if path.exists() else temporary).stat().st_mode
        yield temporary
        temporary.chmod(stat.S_IMODE(mode))  # some who write, safetensors among them, let only the owner read
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        # A write names no file, and this one nobody knows. An error with a text alone would lose it.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file as `written_whole` does."""
    with written_whole(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_temporary(path: Path) -> bool:
    """Whether `written_whole` gave it its name."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


def os_error(error: Exception) -> OSError:
    """What the system said, where a library that wrote for us says something of its own."""
    for one in (error, error.__cause__, error.__context__):
        if isinstance(one, OSError):
            return one
    found = re.search(r"\(os error (\d+)\)", str(error))  # as Rust writes it
    if found is None:
        return OSError(errno.EIO, "it was not written to its end")
    return OSError(int(found[1]), os.strerror(int(found[1])))


def is_full(error: OSError) -> bool:
    """Whether room is what is missing."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def free_megabytes(path: Path) -> int:
    """On the disk of a path, of which only the upper folders need be there."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free // 10**6


def cure(error: OSError) -> str:
    """What helps where something could not be written."""
    if is_full(error):
        return "free some space"
    if error.errno == errno.EFBIG:
        return "lift the limit on the size of a file (ulimit -f)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "see who may write there"
    return "see whether the disk is well"


def no_output(path: Path, error: OSError) -> str:
    """What to say where the result of a command, which goes where --out says, could not be written."""
    another = "choose another --out"
    helps = f"{cure(error)}, or {another}" if error.errno in _OF_THE_DISK else another
    return f"{path}: cannot be written ({error.strerror or error}); {helps}"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where this program keeps what it can make again; nothing of the user's is there."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "detector"


def remembered(kind: str, facts: object) -> dict[str, Any]:
    """What `remember` wrote down about the same facts; empty where that is nothing, or nothing usable."""
    try:
        values: object = json.loads(_note(kind, facts).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", values) if isinstance(values, dict) else {}


def remember(kind: str, facts: object, values: Mapping[str, object]) -> None:
    """Keep in the cache folder what was measured once; a disk that does not take it is no trouble."""
    note = _note(kind, facts)
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps(values))


def _note(kind: str, facts: object) -> Path:
    return cache_folder() / kind / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.json"


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder, and keeps its names by itself
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
