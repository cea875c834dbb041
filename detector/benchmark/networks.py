"""Ours against torchvision's RetinaNet: the same weights, the same inputs, in one process, in turns.

That all compute the same is checked first; a row whose answer differs says so. Each way has a network of its own.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet

from detector.benchmark import contest, peer
from detector.benchmark.contest import Equality, Measured, Report
from detector.errors import ConfigError
from detector.model import compiled, inference, precision
from detector.train.learner import Learner
from detector.types import Detections, Placement

Task = Literal["train", "infer"]
SHIPPED = "torchvision as shipped"
# Of losses: relative difference. Of detections: share without a counterpart.
_TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.05}
_SCORE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.02}
_TITLES: Mapping[Task, str] = {
    "train": "training step of a RetinaNet with ResNet-50, optimizer included",
    "infer": "images to detections by a RetinaNet with ResNet-50",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    task: Task
    batch_size: int
    image_size: int = 640
    rounds: int = 5
    compile: bool = False  # measure compiled networks too


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """Whose network, and what was done to it."""

    name: str
    dtype: torch.dtype
    is_ours: bool
    compiled: bool = False


_CASES = (
    _Case(name=SHIPPED, dtype=torch.float32, is_ours=False),
    _Case(name="torchvision bfloat16 channels-last", dtype=torch.bfloat16, is_ours=False),
    _Case(name="torchvision bfloat16 compiled", dtype=torch.bfloat16, is_ours=False, compiled=True),
    _Case(name="detector float32", dtype=torch.float32, is_ours=True),
    _Case(name="detector bfloat16", dtype=torch.bfloat16, is_ours=True),
    _Case(name="detector bfloat16 compiled", dtype=torch.bfloat16, is_ours=True, compiled=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    name: str
    dtype: torch.dtype
    step: Callable[[], object]
    answer: Callable[[], Mapping[str, Any]]
    """Losses by name; or the detections of each image, which no file keeps."""


def measure(settings: Settings, device: torch.device, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on.

    Raises:
        ConfigError: torchvision would pad images of this size.
    """
    if settings.image_size % peer.MULTIPLE:
        raise ConfigError(f"--image-size must be a multiple of {peer.MULTIPLE}, as torchvision pads to it")
    say("networks")
    made = _ways(settings, device)
    ways = {way.name: way for way in made}
    answers: dict[str, Mapping[str, Any]] = {}
    for way in made:
        say(f"answer of {way.name}")
        answers[way.name] = way.answer()
        way.step()  # what the first one prepares, such as compiled code, is not timed
    distances = {way.name: _distance(way, answers[way.name], answers[SHIPPED]) for way in made}
    # What the same type does to torchvision itself is no fault of another network.
    by_rounding = max(distances[case.name] for case in _CASES if not case.is_ours and case.name in distances)
    tolerances = {
        way.name: max(_TOLERANCE[way.dtype], by_rounding if way.dtype == torch.bfloat16 else 0.0) for way in made
    }
    told = {name: _told(answer) | {"distance": distances[name]} for name, answer in answers.items()}
    return contest.compare(
        _TITLES[settings.task],
        {
            "batch_size": settings.batch_size,
            "image_size": settings.image_size,
            "num_classes": peer.NUM_CLASSES,
            "rounds": settings.rounds,
        },
        lambda name: _timed(ways[name].step, device, told[name]),
        ways=tuple(ways),
        reference=SHIPPED,
        rounds=settings.rounds,
        say=say,
        device=device,
        equality=Equality(distance=lambda found, _: found["distance"], tolerances=tolerances),
    )


def _distance(way: _Way, answer: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Of losses, relative; of detections, the share that has no counterpart."""
    if "detections" in answer:
        tolerance = _SCORE_TOLERANCE[way.dtype]
        return peer.unmatched(answer["detections"], expected["detections"], score_tolerance=tolerance)
    return max(abs(answer[name] - value) / abs(value) for name, value in expected.items())


def _told(answer: Mapping[str, Any]) -> dict[str, float]:
    """What a report keeps of an answer."""
    if "detections" in answer:
        return {"num_detections": sum(len(one) for one in answer["detections"])}
    return dict(answer)


def _timed(step: Callable[[], object], device: torch.device, found: Mapping[str, float]) -> Measured:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Measured(
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start,
        peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        found=found,
    )


def _ways(settings: Settings, device: torch.device) -> list[_Way]:
    size = settings.image_size
    state = peer.theirs(size, device).state_dict()
    given = peer.inputs(settings.batch_size, size, device)
    maker = {
        ("train", False): _their_training,
        ("train", True): _our_training,
        ("infer", False): _their_inference,
        ("infer", True): _our_inference,
    }
    cases = [case for case in _CASES if settings.compile or not case.compiled]
    return [maker[settings.task, case.is_ours](case, state, given, size, device) for case in cases]


def _their_model(case: _Case, state: dict[str, Tensor], size: int, device: torch.device) -> RetinaNet:
    model = peer.theirs(size, device, state)
    if case.dtype != torch.float32:
        model = model.to(memory_format=torch.channels_last)
    if case.compiled:
        model.backbone.compile(dynamic=False)
        model.head.compile(dynamic=False)
    return model


def _their_training(case: _Case, state: dict[str, Tensor], given: peer.Inputs, size: int, device: torch.device) -> _Way:
    """Forward pass, losses, backward pass and a step of the optimizer."""
    model = _their_model(case, state, size, device).train()
    optimizer = peer.optimizer(model)

    def losses() -> dict[str, Tensor]:
        with precision.autocast(device, case.dtype):
            return model(given.images, given.targets)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack([loss.float() for loss in losses().values()]).sum().backward()
        optimizer.step()

    def answer() -> dict[str, float]:
        found = losses()
        return {"classification": found["classification"].item(), "box": found["bbox_regression"].item()}

    return _Way(name=case.name, dtype=case.dtype, step=step, answer=answer)


def _our_training(case: _Case, state: dict[str, Tensor], given: peer.Inputs, size: int, device: torch.device) -> _Way:
    config = peer.config()
    model = peer.ours(state, config, size, device)
    learner = Learner(model, config, dtype=case.dtype)
    if case.compiled:
        compiled.compile_for_training(model)

    def answer() -> dict[str, float]:
        objective = learner.objective
        losses = objective(given.ours, objective.base_weights).losses
        found = dict(zip(losses.terms, losses.values.tolist(), strict=True))
        return {"classification": found["classification.cross_entropy"], "box": found["box.smooth_l1"]}

    return _Way(name=case.name, dtype=case.dtype, step=lambda: learner.learn(given.ours, 0.5), answer=answer)


def _their_inference(
    case: _Case, state: dict[str, Tensor], given: peer.Inputs, size: int, device: torch.device
) -> _Way:
    """From images to detections, suppression included."""
    model = _their_model(case, state, size, device).eval()

    def found() -> list[dict[str, Tensor]]:
        with torch.inference_mode(), precision.autocast(device, case.dtype):
            return model(given.images)

    def answer() -> dict[str, list[Tensor]]:
        return {"detections": [_table(one["boxes"], one["scores"], one["labels"]) for one in found()]}

    return _Way(name=case.name, dtype=case.dtype, step=found, answer=answer)


def _our_inference(case: _Case, state: dict[str, Tensor], given: peer.Inputs, size: int, device: torch.device) -> _Way:
    config = peer.config()
    model = peer.ours(state, config, size, device)
    trained = peer.whole(model, config, size)
    if case.compiled:
        compiled.compile_for_inference(model, (size, size))
    placements = [Placement(scale=1.0, original_hw=(size, size))] * len(given.images)

    def found() -> list[Detections]:
        return inference.detect(trained, given.ours.images, placements, dtype=case.dtype)

    def answer() -> dict[str, list[Tensor]]:
        return {"detections": [_table(one.boxes, one.scores, one.labels) for one in found()]}

    return _Way(name=case.name, dtype=case.dtype, step=found, answer=answer)


def _table(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    return torch.cat((boxes, scores[:, None], labels[:, None]), dim=1).float().cpu()
