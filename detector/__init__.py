"""A two-head object detector. `Detector` is the whole public API; everything else may change."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detector.predict.predictor import Detector

__all__ = ["Detector"]


def __getattr__(name: str) -> object:
    # Lazily, because the command line answers --help without waiting for torch.
    if name == "Detector":
        from detector.predict.predictor import Detector

        return Detector
    raise AttributeError(f"module 'detector' has no attribute {name!r}")
