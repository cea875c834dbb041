"""Compute a step again that was not finite."""

from pathlib import Path

from detector.model import device as devices
from detector.train import forensics
from detector.train.forensics import Replay


def replay(file: Path, *, device: str) -> Replay:
    """See `detector replay --help`."""
    return forensics.replay(file, devices.resolve(device))
