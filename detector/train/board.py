"""Curves for TensorBoard, where its package is installed; nothing here needs it before it is asked for."""

from collections.abc import Mapping
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

from detector.errors import ConfigError

FOLDER = "tensorboard"
_SECONDS_BETWEEN_WRITES = 10


class Board:
    """Writes curves; what goes wrong with the files is an OSError, as of any other file."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add(self, curves: Mapping[str, float], step: int) -> None:
        for name, value in curves.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        with suppress(OSError):  # the run ends; metrics.jsonl has the same numbers
            self._writer.close()


def require() -> None:
    """See early that there is something to write with.

    Raises:
        ConfigError: the package is not installed.
    """
    if util.find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard: the package tensorboard is not installed; pip install tensorboard, or leave it out: "
            "metrics.jsonl and report.html show the same curves"
        )


def open_in(folder: Path) -> Board:
    """Curves in a folder of the run; those of an earlier process stay.

    Raises:
        ConfigError: the package cannot be used.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"--tensorboard: {error}; reinstall the package tensorboard, or leave it out") from error
    return Board(SummaryWriter(str(folder / FOLDER), flush_secs=_SECONDS_BETWEEN_WRITES))
