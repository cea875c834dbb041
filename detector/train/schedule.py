"""Schedules as pure maps from time to state. The loop asks; nothing here remembers."""

import math
from dataclasses import dataclass

from detector.config import LengthConfig, OptimConfig


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


SECONDS_PER_EVALUATION = 120.0  # a run limited by time spends it on training: at most one scoring in so long


def plan(length: LengthConfig, *, num_images: int, batch_size: int) -> Plan:
    """Turn epochs, steps or minutes into a plan."""
    if length.minutes is not None:
        seconds = 60.0 * length.minutes
        evaluations = min(length.evaluations, max(1, int(seconds / SECONDS_PER_EVALUATION)))
        return Plan(steps=None, seconds=seconds, evaluations=evaluations)
    steps = length.steps
    if steps is None:
        assert length.epochs is not None
        steps = max(1, math.ceil(length.epochs * num_images / batch_size))
    return Plan(steps=steps, seconds=None, evaluations=min(length.evaluations, steps))


def lr_factor(step: int, progress: float, config: OptimConfig) -> float:
    """Linear warm-up over steps times a cosine over the run (Loshchilov and Hutter 2017) to `final_lr_factor`."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    low = config.final_lr_factor
    return warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))
