"""Where the time of a step goes: convolutions, passes over memory, arithmetic, waiting for Python and launches."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from detector.benchmark import peer
from detector.benchmark.environment import Environment
from detector.model import inference, precision
from detector.train.learner import Learner
from detector.types import Placement

_KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions": ("conv", "gemm", "addmm", "aten::mm", "cudnn", "xmma", "cutlass", "wgrad", "dgrad"),
    "optimizer and averaging": ("optimizer", "lerp", "_foreach", "_fused", "multi_tensor"),
    "sorting and suppression": ("topk", "sort", "nms", "nonzero", "scatter", "gather", "index"),
    "copies and casts": ("copy", "cat", "clone", "fill", "zero", "contiguous", "memcpy", "memset", "_to_", "stack"),
}
_REST = "pointwise arithmetic and sums"
_OUTSIDE = "outside of operations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is looked at."""

    batch_size: int = 4
    image_size: int = 640
    rounds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run."""

    environment: Environment
    settings: Settings
    dtype: str
    seconds: Mapping[str, float]  # of a step of each task
    shares: Mapping[str, Mapping[str, float]]  # of its time, by kind of work; they sum to 1


def measure(settings: Settings, device: torch.device, say: Callable[[str], None]) -> Report:
    """Look at a training step, and at the way from one image to its detections; `say` is told what goes on."""
    environment = Environment.here(device)
    dtype = precision.resolve("auto", device)
    size, config = settings.image_size, peer.config()
    state = peer.theirs(size, device).state_dict()
    given = peer.inputs(settings.batch_size, size, device)
    learner = Learner(peer.ours(state, config, size, device), config, dtype=dtype)
    trained = peer.whole(peer.ours(state, config, size, device), config, size)
    one = peer.inputs(1, size, device).ours.images
    placement = [Placement(scale=1.0, original_hw=(size, size))]
    steps: dict[str, Callable[[], object]] = {
        f"training step, batch {settings.batch_size}": lambda: learner.learn(given.ours, 0.5),
        "one image to detections": lambda: inference.detect(trained, one, placement, dtype=dtype),
    }
    seconds: dict[str, float] = {}
    shares: dict[str, Mapping[str, float]] = {}
    for name, step in steps.items():
        say(name)
        seconds[name], shares[name] = _look(step, device, settings.rounds)
    return Report(
        environment=environment,
        settings=settings,
        dtype=str(dtype).removeprefix("torch."),
        seconds=seconds,
        shares=shares,
    )


def _look(step: Callable[[], object], device: torch.device, rounds: int) -> tuple[float, dict[str, float]]:
    on_gpu = device.type == "cuda"
    step()
    step()
    if on_gpu:
        torch.cuda.synchronize(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        start = time.perf_counter()
        for _ in range(rounds):
            step()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    spent = dict.fromkeys([*_KINDS, _REST], 0.0)
    events = cast("list[Any]", list(seen.key_averages()))
    for event in events:
        # On a GPU its kernels count, on a CPU the operations; both are in microseconds.
        if ("CUDA" in str(event.device_type)) == on_gpu:
            own = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            spent[_kind(str(event.key))] += own / 1e6
    spent[_OUTSIDE] = max(0.0, seconds - sum(spent.values()))
    total = sum(spent.values())
    return seconds / rounds, {kind: value / total for kind, value in spent.items()}


def _kind(name: str) -> str:
    lowered = name.lower()
    return next((kind for kind, marks in _KINDS.items() if any(mark in lowered for mark in marks)), _REST)


def as_json(report: Report) -> dict[str, object]:
    return dataclasses.asdict(report)


def table(report: Report) -> str:
    what = report.settings
    lines = [
        report.environment.text(),
        f"RetinaNet with ResNet-50 in {report.dtype}, {what.image_size} pixels; mean of {what.rounds}",
        "",
    ]
    for name, shares in report.shares.items():
        lines.append(f"{name}: {report.seconds[name]:.3f} s")
        lines += [f"  {kind:<32}{share:>7.1%}" for kind, share in shares.items() if share >= 5e-4]
    return "\n".join(lines)
