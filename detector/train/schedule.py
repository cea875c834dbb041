"""Schedules as pure maps from time to state. The loop asks; nothing here remembers."""

import math
from dataclasses import dataclass

from detector.config import OptimConfig, RunConfig
from detector.geometry import letterbox
from detector.types import BatchShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How far training goes: a count of steps, or a span of wall time."""

    steps: int | None
    seconds: float | None
    evaluations: int

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run that is done after `step` steps and `elapsed` seconds, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.seconds is not None
        return min(1.0, elapsed / self.seconds)

    def evaluations_due(self, progress: float) -> int:
        """Scorings of the validation split that should have happened by now, the one at the end included."""
        return int(progress * self.evaluations + 1e-9)


SECONDS_PER_EVALUATION = 240.0  # a run limited by time spends it on training: at most one scoring in so long


def plan(config: RunConfig, *, num_images: int) -> Plan:
    """Turn epochs, steps or minutes into a plan. An epoch is as many images as the data set has, cut-outs included."""
    length, data = config.length, config.data
    if length.minutes is not None:
        seconds = 60.0 * length.minutes
        evaluations = min(length.evaluations, max(1, int(seconds / SECONDS_PER_EVALUATION)))
        return Plan(steps=None, seconds=seconds, evaluations=evaluations)
    steps = length.steps
    if steps is None:
        assert length.epochs is not None
        images_per_step = data.batch_size * (1 + cut_outs_until(config) * (data.crops.batch_factor - 1))
        steps = max(1, math.ceil(length.epochs * num_images / images_per_step))
    return Plan(steps=steps, seconds=None, evaluations=min(length.evaluations, steps))


def batch_shape(progress: float, config: RunConfig, canvas_hw: tuple[int, int]) -> BatchShape:
    """Cut-outs in the first part of the run, whole canvases after it, on which the last part shows whole images."""
    data = config.data
    if progress < cut_outs_until(config):
        size, window_hw = data.batch_size * data.crops.batch_factor, letterbox.shrink(canvas_hw, data.crops.size)
        return BatchShape(size=size, window_hw=window_hw)
    is_clean = progress >= config.augment.clean_from
    return BatchShape(size=data.batch_size, window_hw=canvas_hw, is_clean=is_clean)


def cut_outs_until(config: RunConfig) -> float:
    """Progress of the run at which cut-outs end: as set, or where the clean part begins."""
    return min(config.data.crops.share, config.augment.clean_from)


def lr_factor(step: int, progress: float, config: OptimConfig) -> float:
    """Linear warm-up over steps times a cosine over the run (Loshchilov and Hutter 2017) to `final_lr_factor`."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    low = config.final_lr_factor
    return warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))
