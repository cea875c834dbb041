"""Find objects in images; of several processes each looks at some of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detector import progress
from detector.model import device as devices
from detector.model import model_file, precision
from detector.model.model_file import TrainedModel
from detector.predict import finder, output
from detector.predict.output import PredictOutcome
from detector.predict.predictor import Detector
from detector.predict.sources import find_images
from detector.run import thresholds
from detector.train import distributed
from detector.train.distributed import World


def predict(
    checkpoints: Sequence[Path],
    sources: Sequence[str],
    *,
    out: Path | None,
    score: float | None,
    device: str,
    decode: Mapping[str, object] | None = None,
    compile_network: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> PredictOutcome:
    """Find objects in images and write annotated pictures and `predictions.json`.

    What several models find is fused; their classes are matched by name. Without a score the model's own
    thresholds decide, or its default. Under torchrun each process looks at its share, and the first writes.
    """
    with distributed.joined(devices.resolve(device)) as world:
        # Of the first: what it writes may lie among the sources, and be found by one that comes late.
        images = world.share(find_images(sources) if world.is_first else [])
        # On a CPU a larger batch is no faster, and the last one would have to be filled.
        at_once = 1 if world.device.type == "cpu" else min(output.BATCH_SIZE, len(images))
        models = [model_file.load(checkpoint, world.device, decode=decode) for checkpoint in checkpoints]
        compile_for = at_once if compile_network else None
        say = say if world.is_first else _no_one
        found = _assembled(models, checkpoints, world, compile_for, say)
        if score is None and any(model.thresholds is not None for model in models):
            say(_what_decides(found, checkpoints, models))
        outcome: PredictOutcome | None = None
        if world.is_first:
            with progress.shown("predicting") as show:
                outcome = output.write(found, images, folder=out, score=score, progress=show, crew=world)
        else:
            output.assist(found, images, world, score=score)
        outcome = world.share(outcome)
    assert outcome is not None
    return dataclasses.replace(outcome, is_first=world.is_first)


def _what_decides(found: Detector, checkpoints: Sequence[Path], models: Sequence[TrainedModel]) -> str:
    if found.thresholds is not None:
        return thresholds.told(found.label_map, found.thresholds)
    holders = [str(path) for path, model in zip(checkpoints, models, strict=True) if model.thresholds is not None]
    return (
        f"thresholds in {', '.join(holders)} are not used, for several models are fused; "
        f"the least score is {found.default_score:g}, the default; --score X takes another"
    )


def _no_one(line: str) -> None:
    """Hears it."""


def _assembled(
    models: Sequence[TrainedModel],
    checkpoints: Sequence[Path],
    world: World,
    compile_for: int | None,
    say: Callable[[str], None],
) -> Detector:
    # The first one's choice: the probe of another process may find otherwise.
    dtypes = world.share([precision.resolve(model.config.precision, world.device) for model in models])
    names = [str(checkpoint) for checkpoint in checkpoints]
    return Detector(finder.assemble(models, names, dtypes=dtypes, compile_for=compile_for, say=say))
