"""The shapes of the batches, which the loader asks for some batches ahead of training."""

from typing import Self

from detector.config import RunConfig
from detector.train import schedule
from detector.train.schedule import Plan
from detector.types import BatchShape


class Shapes:
    """Gives the shape of every batch, the same in all processes, however far ahead the loader of each one is.

    Where the length is in minutes, a part of the run (cut-outs, clean images) begins at the first batch that no process
    has asked for yet.
    """

    def __init__(self, plan: Plan, config: RunConfig, canvas_hw: tuple[int, int], *, first: int) -> None:
        """Args: `first` is the step of the first batch."""
        self._plan = plan
        self._config = config
        self._canvas_hw = canvas_hw
        self._parts = [(first, self._at(0.0))]
        """The first step of each part so far, and the shape of its batches."""
        self.asked = first
        """The step whose batch is asked for next."""

    def agreed(self, progress: float, asked: int) -> None:
        """All processes have heard how far the run is, and the highest `asked` of them all."""
        shape = self._at(progress)
        if shape != self._parts[-1][1]:
            self._parts.append((asked, shape))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchShape:
        step = self.asked
        self.asked += 1
        if self._plan.steps is not None:
            return self._at(self._plan.progress(step, 0.0))
        return next(shape for start, shape in reversed(self._parts) if start <= step)

    def _at(self, progress: float) -> BatchShape:
        return schedule.batch_shape(progress, self._config, self._canvas_hw)
