"""Heads all at once against heads one after another: are the gradients equal, what is saved, what does it cost?

Every number of one recipe comes from one process, one set of weights and one batch. Memory and time are measured in
passes of their own, because counting bytes takes time.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from detector import config_file, recipes
from detector.benchmark.environment import Environment
from detector.benchmark.memory import Held, Live
from detector.benchmark.spread import Spread
from detector.config import RunConfig
from detector.model.detector import DetectionModel, build
from detector.recipes import RecipeName
from detector.train import sequential
from detector.train.junction import inner_products
from detector.train.objective import Objective
from detector.train.sequential import Piece
from detector.types import Batch, Preprocess, Targets

Way = Literal["joint", "head", "level", "images"]
"""All heads at once; one head after another; each level after level; each level some images at a time (the default)."""
WAYS: tuple[Way, ...] = get_args(Way)

RECIPES: tuple[RecipeName, ...] = ("standard", "retinanet")
NUM_CLASSES = 80
NUM_OBJECTS = 7  # an image; the mean of COCO
_NO_LIMIT = sys.maxsize
_METER_ROUNDS = 5
_MEMORY: Mapping[Way, Mapping[str, object]] = {
    "joint": {"memory.heads": "joint"},
    "head": {"memory.heads": "sequential"},
    "level": {"memory.heads": "sequential", "memory.piece_cells": _NO_LIMIT},
    "images": {"memory.heads": "sequential", "memory.piece_cells": None},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    recipes: tuple[RecipeName, ...] = RECIPES
    batch_size: int = 8
    image_size: int = 640
    rounds: int = 5
    num_classes: int = NUM_CLASSES
    objects_per_image: int = NUM_OBJECTS


@dataclass(frozen=True, slots=True, kw_only=True)
class WayResult:
    """One way of running the heads; reductions are shares of what `joint` takes."""

    max_gradient_difference: float  # of any entry of any parameter, against joint
    relative_gradient_difference: float  # the same, as a share of the largest entry of that parameter's gradient
    largest_gradient: float  # entry of any parameter
    held_bytes: int  # for the backward pass, by heads and losses, at the worst moment
    held_reduction: float
    peak_bytes: int  # of live tensors in the whole step, parameters left out and gradients not
    peak_reduction: float
    cuda_peak_bytes: int | None  # what CUDA's allocator says, parameters included
    cuda_peak_reduction: float | None
    seconds: Spread
    time_ratio: Spread  # to joint in the same round


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeResult:
    """All ways of one recipe in one type."""

    recipe: RecipeName
    dtype: str
    trunk_bytes: int  # held for the backward pass by the trunk
    meter_share: float  # of a joint step's time, to measure the branches' gradients at the junction
    ways: Mapping[Way, WayResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of the benchmark."""

    environment: Environment
    settings: Settings
    results: tuple[RecipeResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """What one step takes, and its gradients."""

    gradients: Mapping[str, Tensor]
    trunk_bytes: int
    held_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Time:
    """One step without trackers."""

    seconds: float
    cuda_peak_bytes: int | None


class _Subject(Objective):
    """The objective of training, which can also take a head whole."""

    def __init__(self, model: DetectionModel, config: RunConfig, *, dtype: torch.dtype, way: Way) -> None:
        super().__init__(model, config_file.override(config, _MEMORY[way]), dtype=dtype)
        self._way = way

    def _pieces(self, levels: Sequence[Tensor], images: Tensor) -> list[Piece]:
        if self._way == "head":
            return [sequential.whole(self.model.priors((images.shape[2], images.shape[3])).level_sizes)]
        return super()._pieces(levels, images)


class _Bench:
    """One model and one batch."""

    def __init__(self, config: RunConfig, settings: Settings, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        size = settings.image_size
        self.config = config
        self.device = device
        self.model = build(config, num_classes=settings.num_classes, preprocess=Preprocess(canvas_hw=(size, size))).to(
            device
        )
        self.model.train()
        self.batch = synthetic_batch(settings, config.seed).to(device)
        self._buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def subject(self, way: Way, dtype: torch.dtype) -> _Subject:
        subject = _Subject(self.model, self.config, dtype=dtype, way=way).to(self.device)
        subject.train()
        return subject

    def memory(self, subject: _Subject) -> _Memory:
        self._clear()
        live = Live()
        held = Held(live, [*self.model.parameters(), *self.model.buffers()])
        trunk_bytes: list[int] = []

        def trunk_is_done(*_: object) -> None:
            trunk_bytes.append(held.mark())

        hook = self.model.neck.register_forward_hook(trunk_is_done)
        with live, held.watching():
            subject(self.batch, subject.base_weights).total.backward()
        hook.remove()
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        self._clear()
        return _Memory(
            gradients=gradients,
            trunk_bytes=trunk_bytes[0],
            held_bytes=held.peak - trunk_bytes[0],
            peak_bytes=live.peak,
        )

    def time(self, subject: _Subject) -> _Time:
        self._clear()
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        subject(self.batch, subject.base_weights).total.backward()
        if on_gpu:
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - start
        return _Time(seconds=seconds, cuda_peak_bytes=torch.cuda.max_memory_allocated(self.device) if on_gpu else None)

    def meter_seconds(self, dtype: torch.dtype, num_branches: int) -> float:
        """Time to measure gradients of the features' shapes at the junction."""
        with torch.no_grad():
            levels = self.model.trunk(self.model.normalise(self.batch.images[:1]))
        shapes = [(len(self.batch.images), *level.shape[1:]) for level in levels]
        gradients = [
            [torch.randn(shape, device=self.device).to(dtype, memory_format=torch.channels_last) for shape in shapes]
            for _ in range(num_branches)
        ]
        times: list[float] = []
        for _ in range(_METER_ROUNDS):
            start = time.perf_counter()
            inner_products(gradients).sum().item()  # waits for the device
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def _clear(self) -> None:
        """No gradients, and the statistics of the norms as at the start."""
        self.model.zero_grad(set_to_none=True)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(self._buffers[name])
        gc.collect()


def synthetic_batch(settings: Settings, seed: int) -> Batch:
    """Noise, with boxes of all sizes from 16 pixels to half the image."""
    generator = torch.Generator().manual_seed(seed)
    shape = (settings.batch_size, settings.objects_per_image)
    size = settings.image_size
    sides = 16 * (size / 32) ** torch.rand(*shape, 2, generator=generator)
    corner = torch.rand(*shape, 2, generator=generator) * (size - sides)
    is_object = torch.ones(shape, dtype=torch.bool)
    return Batch(
        images=torch.randint(0, 256, (shape[0], 3, size, size), generator=generator, dtype=torch.uint8),
        targets=Targets(
            boxes=torch.cat((corner, corner + sides), dim=-1),
            labels=torch.randint(0, settings.num_classes, shape, generator=generator),
            is_object=is_object,
        ),
        indices=torch.arange(shape[0]),
        placements=(),
    )


def measure(settings: Settings, device: torch.device, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on."""
    environment = Environment.here(device)
    results: list[RecipeResult] = []
    for name in settings.recipes:
        changes = {"data.image_size": settings.image_size, "data.batch_size": settings.batch_size}
        bench = _Bench(config_file.override(recipes.make(name), changes), settings, device)
        for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
            title = f"{name}, {str(dtype).removeprefix('torch.')}"
            trunk_bytes, ways = _measure_ways(bench, dtype, settings.rounds, _titled(say, title))
            meter = bench.meter_seconds(dtype, num_branches=len(bench.config.model.heads))
            results.append(
                RecipeResult(
                    recipe=name,
                    dtype=str(dtype).removeprefix("torch."),
                    trunk_bytes=trunk_bytes,
                    meter_share=meter / ways["joint"].seconds.median,
                    ways=ways,
                )
            )
    return Report(environment=environment, settings=settings, results=tuple(results))


def _titled(say: Callable[[str], None], title: str) -> Callable[[str], None]:
    return lambda text: say(f"{title}: {text}")


def _measure_ways(
    bench: _Bench, dtype: torch.dtype, rounds: int, say: Callable[[str], None]
) -> tuple[int, dict[Way, WayResult]]:
    subjects: dict[Way, _Subject] = {way: bench.subject(way, dtype) for way in WAYS}
    memory: dict[Way, _Memory] = {}
    differences: dict[Way, tuple[float, float]] = {}
    for way, subject in subjects.items():
        say(f"memory of {way}")
        measured = bench.memory(subject)
        expected = memory["joint"].gradients if memory else measured.gradients
        differences[way] = _difference(measured.gradients, expected)
        memory[way] = measured if way == "joint" else replace(measured, gradients={})
    largest = max(gradient.abs().max().item() for gradient in memory["joint"].gradients.values())
    trunk_bytes = memory["joint"].trunk_bytes
    memory["joint"] = replace(memory["joint"], gradients={})
    times: dict[Way, list[_Time]] = {way: [] for way in WAYS}
    for i in range(rounds):
        # Each round begins with another way, so that none is always the first.
        for way in (*WAYS[i % len(WAYS) :], *WAYS[: i % len(WAYS)]):
            times[way].append(bench.time(subjects[way]))
            say(f"round {i + 1} of {rounds}, {way}: {times[way][-1].seconds:.3f} s")
    ways: dict[Way, WayResult] = {
        way: _result(memory[way], memory["joint"], times[way], times["joint"], differences[way], largest)
        for way in WAYS
    }
    return trunk_bytes, ways


def _result(
    memory: _Memory,
    joint: _Memory,
    times: Sequence[_Time],
    joint_times: Sequence[_Time],
    difference: tuple[float, float],
    largest: float,
) -> WayResult:
    peaks = [one.cuda_peak_bytes for one in times if one.cuda_peak_bytes is not None]
    joint_peaks = [one.cuda_peak_bytes for one in joint_times if one.cuda_peak_bytes is not None]
    return WayResult(
        max_gradient_difference=difference[0],
        relative_gradient_difference=difference[1],
        largest_gradient=largest,
        held_bytes=memory.held_bytes,
        held_reduction=1 - memory.held_bytes / joint.held_bytes,
        peak_bytes=memory.peak_bytes,
        peak_reduction=1 - memory.peak_bytes / joint.peak_bytes,
        cuda_peak_bytes=max(peaks, default=None),
        cuda_peak_reduction=1 - max(peaks) / max(joint_peaks) if peaks else None,
        seconds=Spread.of([one.seconds for one in times]),
        time_ratio=Spread.of([a.seconds / b.seconds for a, b in zip(times, joint_times, strict=True)]),
    )


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[float, float]:
    """Largest difference of any entry, and largest as a share of the largest entry of the same parameter."""
    assert found.keys() == expected.keys()
    absolute = relative = 0.0
    for name, gradient in found.items():
        difference = (gradient - expected[name]).abs().max().item()
        absolute = max(absolute, difference)
        scale = expected[name].abs().max().item()
        relative = max(relative, difference / scale if scale else float(difference > 0))
    return absolute, relative
