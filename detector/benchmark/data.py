"""Training from files beside the same training from memory: what reading images costs the whole.

Both see the same batches and start from the same weights, so their losses are the same numbers.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from detector import recipes
from detector.benchmark import contest
from detector.benchmark.contest import Measured, Report
from detector.config import LengthConfig, RunConfig
from detector.data import coco, layout, loader
from detector.data.columns import Columns
from detector.geometry import letterbox
from detector.model import detector as network
from detector.model import device as devices
from detector.model import precision
from detector.train import schedule
from detector.train.learner import Learner
from detector.types import Batch, BatchShape, Preprocess

WAYS = ("files", "cached", "memory")
_WARM_UP = 3  # steps of each kind of batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    folder: Path
    """A data set."""
    recipe: recipes.RecipeName = "small"
    steps: int = 40
    workers: int | None = None
    device: str = "auto"
    rounds: int = 5


def measure(settings: Settings, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on.

    Times as fast as from memory: the share of its images a second that training from files keeps.
    """
    words = [str(settings.folder), settings.recipe, str(settings.steps), str(settings.workers), settings.device]
    with tempfile.TemporaryDirectory() as cache:
        return contest.compare(
            "steps of training, and the loss of the last one to be equal",
            dataclasses.asdict(settings) | {"folder": str(settings.folder)},
            lambda way: contest.run_child(__spec__.name, [way, *words, cache]),
            ways=WAYS,
            reference="memory",
            rounds=settings.rounds,
            say=say,
        )


def run(way: str, settings: Settings, cache: Path) -> Measured:
    """One way, in this process."""
    files = layout.find(settings.folder, "train")
    columns = coco.read(files.annotations, files.images)
    config = _config(settings, cache if way == "cached" else None)
    preprocess = Preprocess(canvas_hw=letterbox.choose_canvas(columns.sizes_hw, config.data.image_size))
    learner = _learner(config, columns, preprocess, settings.device)
    shapes = _shapes(config, settings.steps, preprocess.canvas_hw)

    def batches(shapes: list[BatchShape]) -> Iterator[Batch]:
        pin = learner.device.type == "cuda"
        return loader.training_loader(columns, preprocess, config, shapes, pin=pin)

    kinds = list(dict.fromkeys(shapes))
    for batch in batches([shape for shape in kinds for _ in range(_WARM_UP)]):
        learner.learn(batch.to(learner.device), 0.0)
    if way == "cached":
        for _ in batches(shapes):  # as in a later epoch or run
            pass
    source = iter(list(batches(shapes))) if way == "memory" else batches(shapes)
    return contest.measured(lambda: _train(learner, source, settings.steps), lambda loss: {"loss": loss})


def _train(learner: Learner, batches: Iterator[Batch], steps: int) -> list[float]:
    loss = torch.zeros(())
    for step, batch in enumerate(batches):
        loss = learner.learn(batch.to(learner.device), step / steps).losses.values
    return cast("list[float]", loss.tolist())  # waits for the device


def _config(settings: Settings, cache: Path | None) -> RunConfig:
    config = recipes.make(settings.recipe)
    data = replace(
        config.data,
        workers=settings.workers,
        cache="none" if cache is None else "disk",
        cache_folder=None if cache is None else str(cache),
    )
    return replace(config, data=data, length=LengthConfig(steps=settings.steps))


def _learner(config: RunConfig, columns: Columns, preprocess: Preprocess, device: str) -> Learner:
    torch.manual_seed(config.seed)
    target = devices.resolve(device)
    model = network.build(config, num_classes=len(columns.label_map), preprocess=preprocess)
    return Learner(model.to(target), config, dtype=precision.resolve(config.precision, target))


def _shapes(config: RunConfig, steps: int, canvas_hw: tuple[int, int]) -> list[BatchShape]:
    return [schedule.batch_shape(step / steps, config, canvas_hw) for step in range(steps)]


if __name__ == "__main__":
    way, folder, recipe, steps, workers, device, cache = sys.argv[1:]
    given = Settings(
        folder=Path(folder),
        recipe=next(name for name in recipes.NAMES if name == recipe),
        steps=int(steps),
        workers=None if workers == "None" else int(workers),
        device=device,
    )
    contest.print_measured(run(way, given, Path(cache)))
