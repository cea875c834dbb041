"""One process at a time in a run folder. Imports no torch."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from detector import files
from detector.errors import ConfigError

FILE = ".detector-lock"  # nobody else's name: where it lies, a run is
PATIENCE = 3.0  # seconds: a process that was just killed may still be going


class RunLock:
    """Held by the process that trains. The system lets go of it when the process ends, however that happens.

    A record lock rather than `flock`, which the loader processes would inherit and keep after their parent is killed.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Take it.

        Raises:
            ConfigError: another process has it, or it cannot be made.
        """
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            cure = f"{files.cure(error)}, and run the same command again"
            raise ConfigError(f"{self._path}: cannot be written ({error.strerror}); {cure}") from error
        deadline = time.monotonic() + PATIENCE
        while not _taken(self._file):
            if time.monotonic() > deadline:
                holder = os.read(self._file, 100).decode("ascii", "replace").strip() or "?"
                os.close(self._file)
                raise ConfigError(
                    f"{self._path.parent}: process {holder} is training in this folder; wait for it, stop it, or "
                    "choose another --out"
                )
            time.sleep(0.1)
        with suppress(OSError):  # on a full disk it is held all the same
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)


def is_held(folder: Path) -> bool:
    """Whether a process is training there; asked from another one."""
    path = folder / FILE
    if not path.is_file() or not os.access(path, os.W_OK):
        return False
    opened = os.open(path, os.O_RDWR)
    try:
        return not _taken(opened)
    finally:
        os.close(opened)


def _taken(file: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
