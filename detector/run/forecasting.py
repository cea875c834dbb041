"""What a run will need, in words."""

from collections.abc import Iterator
from dataclasses import dataclass

from detector.train.preflight import Estimate, Phase

_GIB = 2**30
_LEAST_WARMUPS = 3
"""Steps of a run, as so many times those in which its rate rises; with fewer it hardly learns."""
_BUSY = 0.7
"""A step with half of the threads that takes so little of the time with all of them says that cores are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A phase of the run, and the seconds of one of its steps, the reading of its images included."""

    phase: Phase
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """Seconds of a step on the CPU, with all threads and with half of them.

    Threads wait for one another at the end of every operation, so one whose core another program uses holds up all.
    """

    num: int
    seconds: float
    num_half: int
    seconds_half: float

    @property
    def get_in_the_way(self) -> bool:
        return self.seconds_half < _BUSY * self.seconds


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
    threads: Threads | None = None
    """None on a GPU, or where there is one thread."""

    def lines(self) -> tuple[str, ...]:
        steps = ", ".join(self._step(need) for need in self.needs)
        scoring = "" if self.scoring_seconds is None else f", {seconds_text(self.scoring_seconds)} a scoring"
        return (
            f"preflight: {steps}{scoring}; up to {self.most_objects} objects an image{self._memory()}",
            f"preflight: {self._whole()}",
            *self.on_threads(),
            *self.on_warm_up(),
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

    def on_threads(self) -> Iterator[str]:
        """A warning, where other programs hold up the run."""
        found = self.threads
        if found is not None and found.get_in_the_way:
            yield (
                f"warning: a step takes {seconds_text(found.seconds)} with {found.num} threads and "
                f"{seconds_text(found.seconds_half)} with {found.num_half}: other programs seem to keep the cores "
                f"busy; end them, or set OMP_NUM_THREADS={found.num_half} in the environment"
            )

    def on_warm_up(self) -> Iterator[str]:
        """A warning, where the run is hardly longer than its warm-up."""
        steps = self.estimate.steps
        if self.minutes is not None and steps < _LEAST_WARMUPS * self.warmup_steps:
            yield (
                f"warning: the time is enough for about {steps} steps, and for {self.warmup_steps} of them "
                "(optim.warmup_steps) the learning rate still rises; give more --minutes, a smaller --image-size, or "
                f"--set optim.warmup_steps={max(1, steps // 20)}"
            )


def seconds_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def span(seconds: float) -> str:
    """A time to wait, as one says it."""
    for limit, unit, name in ((100, 1, "s"), (100 * 60, 60, "min"), (100 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"
