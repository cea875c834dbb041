"""Files that are whole or not there."""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Generator[Path]:
    """Give a temporary path beside `path`; what was written there takes its name when the block ends well.

    The content is on the disk before the name is, so neither a reader nor a crash ever meets half of it, and after a
    failure the earlier file stands untouched.
    """
    # Not `tempfile`: its files are readable by their owner only, and so would be the result.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where this program keeps what it can make again; nothing of the user's is there."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "detector"
