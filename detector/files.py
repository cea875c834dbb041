"""Files that are whole or not there."""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path, *, durable: bool = True) -> Generator[Path]:
    """Give a temporary path beside `path`; what was written there takes its name when the block ends well.

    No reader ever meets half of it, and after a failure the earlier file stands untouched. The content is on the disk
    before the name is, so the same holds after a power cut; what is written again in a moment need not be `durable`.
    """
    # Not `tempfile`: its files are readable by their owner only, and so would be the result.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where this program keeps what it can make again; nothing of the user's is there."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "detector"


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder, and keeps its names by itself
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
