"""How the time of a training step grows with the batch, the image, the classes and the objects in an image."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from detector import config_file, recipes
from detector.benchmark import heads
from detector.benchmark.environment import Environment
from detector.model import detector as network
from detector.model import precision
from detector.recipes import RecipeName
from detector.train.learner import Learner
from detector.types import Preprocess

Axis = Literal["batch_size", "image_size", "num_classes", "objects_per_image"]
AXES: tuple[Axis, ...] = get_args(Axis)
_VALUES: dict[Axis, tuple[int, ...]] = {
    "batch_size": (1, 2, 4, 8, 16),
    "image_size": (160, 320, 480, 640),
    "num_classes": (3, 80, 1203),  # blood cells, COCO, LVIS
    "objects_per_image": (1, 10, 100, 1000),
}
_TICKS = tuple(digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5))
_LABELS: dict[Axis, str] = {
    "batch_size": "images in a batch",
    "image_size": "side of the image, pixels",
    "num_classes": "classes",
    "objects_per_image": "objects in an image",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What stays as it is while one of it changes."""

    recipe: RecipeName = "small"
    batch_size: int = 4
    image_size: int = 320
    num_classes: int = 80
    objects_per_image: int = 7
    rounds: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement."""

    axis: Axis
    value: int
    seconds: float  # median


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run."""

    environment: Environment
    settings: Settings
    dtype: str
    points: tuple[Point, ...]


def measure(settings: Settings, device: torch.device, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on."""
    environment = Environment.here(device)
    dtype = precision.resolve("auto", device)
    points: list[Point] = []
    for axis in AXES:
        for value in _VALUES[axis]:
            seconds = _seconds(replace(settings, **{axis: value}), device, dtype)
            say(f"{_LABELS[axis]} {value}: {seconds:.3f} s a step")
            points.append(Point(axis=axis, value=value, seconds=seconds))
    return Report(
        environment=environment, settings=settings, dtype=str(dtype).removeprefix("torch."), points=tuple(points)
    )


def _seconds(settings: Settings, device: torch.device, dtype: torch.dtype) -> float:
    config = config_file.override(recipes.make(settings.recipe), {"optim.lr": 1e-6, "optim.warmup_steps": 0})
    torch.manual_seed(0)
    preprocess = Preprocess(canvas_hw=(settings.image_size, settings.image_size))
    model = network.build(config, num_classes=settings.num_classes, preprocess=preprocess).to(device)
    learner = Learner(model, config, dtype=dtype)
    batch = heads.synthetic_batch(
        heads.Settings(
            batch_size=settings.batch_size,
            image_size=settings.image_size,
            num_classes=settings.num_classes,
            objects_per_image=settings.objects_per_image,
        ),
        seed=0,
    ).to(device)
    times: list[float] = []
    for _ in range(settings.rounds + 1):
        start = time.perf_counter()
        learner.learn(batch, 0.5)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def as_json(report: Report) -> dict[str, object]:
    return dataclasses.asdict(report)


def table(report: Report) -> str:
    what = report.settings
    lines = [
        report.environment.text(),
        f"training step of recipe {what.recipe} in {report.dtype}; batch {what.batch_size}, {what.image_size} pixels, "
        f"{what.num_classes} classes, {what.objects_per_image} objects an image, but for what is named; "
        f"median of {what.rounds}, in seconds",
        "",
    ]
    for axis in AXES:
        points = _along(report.points, axis)
        lines.append(f"{_LABELS[axis]:<26}" + "".join(f"{point.value:>8}" for point in points))
        lines.append(" " * 26 + "".join(f"{point.seconds:>8.3f}" for point in points))
    return "\n".join(lines)


def draw(report: Report, path: Path) -> None:
    """One panel for each axis; both scales are logarithmic, so a straight line is a power."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    for panel, axis in zip(figure.subplots(2, 2).flat, AXES, strict=True):
        points = _along(report.points, axis)
        values = [point.value for point in points]
        panel.loglog(values, [point.seconds for point in points], marker="o", color="tab:blue")
        for point in points:
            panel.annotate(
                f"{point.seconds:.2f}", (point.value, point.seconds), (0, 6), textcoords="offset points", ha="center"
            )
        panel.set_xticks(values, [str(value) for value in values])
        panel.set_xlabel(_LABELS[axis])
        panel.set_ylabel("seconds a step")
        # All panels alike, so that a line that looks flat is flat.
        low, high = _limits(report.points)
        panel.set_ylim(low, high)
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.margins(x=0.1)
        panel.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=110)


def _limits(points: Sequence[Point]) -> tuple[float, float]:
    seconds = [point.seconds for point in points]
    return min(seconds) / 1.5, max(seconds) * 2


def _along(points: Sequence[Point], axis: Axis) -> list[Point]:
    return [point for point in points if point.axis == axis]
