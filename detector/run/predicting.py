"""Find objects in images."""

from collections.abc import Sequence
from pathlib import Path

from detector import progress
from detector.predict import output
from detector.predict.output import PredictOutcome
from detector.predict.predictor import Detector
from detector.predict.sources import find_images


def predict(
    checkpoints: Sequence[Path], sources: Sequence[str], *, out: Path | None, score: float | None, device: str
) -> PredictOutcome:
    """Find objects in images and write annotated pictures and `predictions.json`.

    What several models find is fused; their classes are matched by name. Without a score the model's own
    thresholds decide, or its default.
    """
    images = find_images(sources)
    found = Detector.load(*checkpoints, device=device)
    with progress.shown("predicting") as show:
        return output.write(found, images, folder=out, score=score, progress=show)
