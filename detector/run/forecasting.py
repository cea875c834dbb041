"""What a run will need, in words."""

from dataclasses import dataclass

from detector.train.preflight import Estimate, Phase

_GIB = 2**30
_LEAST_WARMUPS = 3
"""Steps of a run, as so many times those in which its rate rises; with fewer it hardly learns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A phase of the run, and the seconds of one of its steps, the reading of its images included."""

    phase: Phase
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run will need."""

    needs: tuple[Need, ...]
    canvas_hw: tuple[int, int]
    most_objects: int
    """Of an image of the training split."""
    scoring_seconds: float | None
    """Of the whole validation split; None where there is none."""
    peak_bytes: int | None
    available_bytes: int | None
    """Of a GPU."""
    estimate: Estimate
    minutes: float | None
    """Of a run that is limited by time."""
    warmup_steps: int

    def lines(self) -> tuple[str, ...]:
        steps = ", ".join(self._step(need) for need in self.needs)
        scoring = "" if self.scoring_seconds is None else f", {seconds_text(self.scoring_seconds)} a scoring"
        return (
            f"preflight: {steps}{scoring}; up to {self.most_objects} objects an image{self._memory()}",
            f"preflight: {self._whole()}",
            *self.warnings(),
        )

    def values(self) -> dict[str, object]:
        return {
            "steps": self.estimate.steps,
            "scorings": self.estimate.evaluations,
            "seconds": self.estimate.seconds,
            "step_seconds": [need.seconds for need in self.needs],
            "scoring_seconds": self.scoring_seconds,
            "peak_bytes": self.peak_bytes,
            "available_bytes": self.available_bytes,
        }

    def _step(self, need: Need) -> str:
        shape = need.phase.shape
        height, width = shape.window_hw
        what = "clean " * shape.is_clean + ("images" if shape.window_hw == self.canvas_hw else "cut-outs")
        stage = f" in stage {need.phase.stage}" if need.phase.stage else ""
        return f"{seconds_text(need.seconds)} a step of {shape.size} {what} of {width}x{height}{stage}"

    def _memory(self) -> str:
        if self.peak_bytes is None:
            return ""
        available = "" if self.available_bytes is None else f" of {self.available_bytes / _GIB:.1f}"
        return f"; {self.peak_bytes / _GIB:.1f}{available} GiB of memory"

    def _whole(self) -> str:
        scorings = self.estimate.evaluations
        work = f"{self.estimate.steps:,} steps and {scorings} scoring{'s' * (scorings != 1)}"
        if self.minutes is not None:
            return f"about {work} in {self.minutes:g} min"
        return f"about {span(self.estimate.seconds)} for {work}"

    def warnings(self) -> tuple[str, ...]:
        steps = self.estimate.steps
        if self.minutes is None or steps >= _LEAST_WARMUPS * self.warmup_steps:
            return ()
        warmup = max(1, steps // 20)
        return (
            f"warning: the learning rate rises over {self.warmup_steps} steps (optim.warmup_steps), and the time is "
            f"over after {steps}; give more --minutes, a smaller --image-size, or --set optim.warmup_steps={warmup}",
        )


def seconds_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def span(seconds: float) -> str:
    """A time to wait, as one says it."""
    for limit, unit, name in ((100, 1, "s"), (100 * 60, 60, "min"), (100 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"
