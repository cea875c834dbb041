"""Ours against torchvision's RetinaNet: the same weights, the same inputs, in one process, in turns.

That all compute the same is checked first; a row whose answer differs says so. Each way has a network of its own.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detector.benchmark import rival
from detector.benchmark.environment import Environment
from detector.benchmark.heads import Spread
from detector.errors import ConfigError
from detector.model import inference
from detector.train.learner import Learner
from detector.types import Detections, Placement

Task = Literal["train", "infer"]
SHIPPED = "torchvision as shipped"
TUNED = "torchvision bfloat16 channels-last"
# Of losses: relative difference. Of detections: share without a counterpart.
_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.05}
_SCORE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.02}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    task: Task
    batch_size: int
    image_size: int = 640
    rounds: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of doing the task."""

    name: str
    seconds: Spread
    speedup: Spread
    """Over torchvision as shipped in the same round."""
    difference: float
    """Of its answer to that of torchvision as shipped: of losses, relative; of detections, share of other ones."""
    same: bool
    """Whether that is within what rounding explains."""
    found: Mapping[str, float]
    """Losses by name, or the count of detections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of the benchmark."""

    environment: Environment
    settings: Settings
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    name: str
    dtype: torch.dtype
    step: Callable[[], object]
    answer: Callable[[], Mapping[str, float]]
    detections: Callable[[], list[Tensor]] | None = None


def measure(settings: Settings, device: torch.device, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on.

    Raises:
        ConfigError: torchvision would pad images of this size.
    """
    if settings.image_size % rival.MULTIPLE:
        raise ConfigError(f"--image-size must be a multiple of {rival.MULTIPLE}, as torchvision pads to it")
    environment = Environment.here(device)
    say("networks")
    ways = _training(settings, device) if settings.task == "train" else _inference(settings, device)
    answers: dict[str, Mapping[str, float]] = {}
    differences: dict[str, float] = {}
    expected = ways[0].detections() if ways[0].detections else []
    for way in ways:
        say(f"answer of {way.name}")
        answers[way.name] = way.answer()
        differences[way.name] = _difference(way, answers[way.name], answers[SHIPPED], expected)
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for i in range(settings.rounds):
        start = i % len(ways)
        # Each round begins with another way, so that none is always the first.
        for way in (*ways[start:], *ways[:start]):
            times[way.name].append(_seconds(way.step, device))
            say(f"round {i + 1} of {settings.rounds}, {way.name}: {times[way.name][-1]:.3f} s")
    return Report(
        environment=environment,
        settings=settings,
        rows=tuple(
            Row(
                name=way.name,
                seconds=_spread(times[way.name]),
                speedup=_spread([a / b for a, b in zip(times[SHIPPED], times[way.name], strict=True)]),
                difference=differences[way.name],
                same=differences[way.name] <= _TOLERANCE[way.dtype],
                found=answers[way.name],
            )
            for way in ways
        ),
    )


def _difference(
    way: _Way, answer: Mapping[str, float], expected: Mapping[str, float], detections: list[Tensor]
) -> float:
    if way.detections is not None:
        return rival.unmatched(way.detections(), detections, score_tolerance=_SCORE_TOLERANCE[way.dtype])
    return max(abs(answer[name] - value) / abs(value) for name, value in expected.items())


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _training(settings: Settings, device: torch.device) -> list[_Way]:
    """Forward pass, losses, backward pass and a step of the optimizer."""
    size = settings.image_size
    state = rival.theirs(size, device).state_dict()
    given = rival.inputs(settings.batch_size, size, device)
    return [
        _their_training(SHIPPED, torch.float32, state, given, size, device),
        _their_training(TUNED, torch.bfloat16, state, given, size, device),
        _our_training("detector float32", torch.float32, state, given, size, device),
        _our_training("detector bfloat16", torch.bfloat16, state, given, size, device),
    ]


def _their_training(
    name: str, dtype: torch.dtype, state: dict[str, Tensor], given: rival.Inputs, size: int, device: torch.device
) -> _Way:
    model = rival.theirs(size, device, state).train()
    if dtype != torch.float32:
        model = model.to(memory_format=torch.channels_last)
    optimizer = rival.optimizer(model)

    def losses() -> dict[str, Tensor]:
        with rival.autocast(device, dtype):
            return model(given.images, given.targets)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([loss.float() for loss in losses().values()]).sum().backward()
        optimizer.step()

    def answer() -> dict[str, float]:
        with torch.no_grad():
            found = losses()
        return {"classification": found["classification"].item(), "box": found["bbox_regression"].item()}

    return _Way(name=name, dtype=dtype, step=step, answer=answer)


def _our_training(
    name: str, dtype: torch.dtype, state: dict[str, Tensor], given: rival.Inputs, size: int, device: torch.device
) -> _Way:
    config = rival.config()
    learner = Learner(rival.ours(state, config, size, device), config, dtype=dtype)

    def answer() -> dict[str, float]:
        objective = learner.objective
        with torch.no_grad():
            losses = objective(given.ours, objective.base_weights).losses
        found = dict(zip(losses.terms, losses.values.tolist(), strict=True))
        return {"classification": found["classification.cross_entropy"], "box": found["box.smooth_l1"]}

    return _Way(name=name, dtype=dtype, step=lambda: learner.learn(given.ours, 0.5), answer=answer)


def _inference(settings: Settings, device: torch.device) -> list[_Way]:
    """From images to detections, suppression included."""
    size = settings.image_size
    state = rival.theirs(size, device).state_dict()
    given = rival.inputs(settings.batch_size, size, device)
    return [
        _their_inference(SHIPPED, torch.float32, state, given, size, device),
        _their_inference(TUNED, torch.bfloat16, state, given, size, device),
        _our_inference("detector float32", torch.float32, state, given, size, device),
        _our_inference("detector bfloat16", torch.bfloat16, state, given, size, device),
    ]


def _their_inference(
    name: str, dtype: torch.dtype, state: dict[str, Tensor], given: rival.Inputs, size: int, device: torch.device
) -> _Way:
    model = rival.theirs(size, device, state).eval()
    if dtype != torch.float32:
        model = model.to(memory_format=torch.channels_last)

    def found() -> list[dict[str, Tensor]]:
        with torch.inference_mode(), rival.autocast(device, dtype):
            return model(given.images)

    def detections() -> list[Tensor]:
        return [_table(one["boxes"], one["scores"], one["labels"]) for one in found()]

    return _finder(name, dtype, found, detections)


def _our_inference(
    name: str, dtype: torch.dtype, state: dict[str, Tensor], given: rival.Inputs, size: int, device: torch.device
) -> _Way:
    config = rival.config()
    trained = rival.whole(rival.ours(state, config, size, device), config, size)
    placements = [Placement(scale=1.0, original_hw=(size, size))] * len(given.images)

    def found() -> list[Detections]:
        return inference.detect(trained, given.ours.images, placements, dtype=dtype)

    def detections() -> list[Tensor]:
        return [_table(one.boxes, one.scores, one.labels) for one in found()]

    return _finder(name, dtype, found, detections)


def _finder(name: str, dtype: torch.dtype, found: Callable[[], object], detections: Callable[[], list[Tensor]]) -> _Way:
    def answer() -> dict[str, float]:
        return {"detections": float(sum(len(one) for one in detections()))}

    return _Way(name=name, dtype=dtype, step=found, answer=answer, detections=detections)


def _table(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    return torch.cat((boxes, scores[:, None], labels[:, None]), dim=1).float().cpu()


def _spread(values: list[float]) -> Spread:
    return Spread(median=statistics.median(values), min=min(values), max=max(values))
