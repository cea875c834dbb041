"""Find objects in images."""

from collections.abc import Callable, Sequence
from pathlib import Path

from detector import progress
from detector.model import device as devices
from detector.predict import output
from detector.predict.output import PredictOutcome
from detector.predict.predictor import Detector
from detector.predict.sources import find_images


def predict(
    checkpoints: Sequence[Path],
    sources: Sequence[str],
    *,
    out: Path | None,
    score: float | None,
    device: str,
    compile_network: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> PredictOutcome:
    """Find objects in images and write annotated pictures and `predictions.json`.

    What several models find is fused; their classes are matched by name. Without a score the model's own
    thresholds decide, or its default.
    """
    images = find_images(sources)
    # On a CPU a larger batch is no faster, and the last one would have to be filled.
    at_once = 1 if devices.resolve(device).type == "cpu" else min(output.BATCH_SIZE, len(images))
    found = Detector.load(*checkpoints, device=device, compile_for=at_once if compile_network else None, say=say)
    with progress.shown("predicting") as show:
        return output.write(found, images, folder=out, score=score, progress=show)
