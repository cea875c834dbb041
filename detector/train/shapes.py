"""The shapes of the batches, which the loader asks for some batches ahead of training."""

from typing import Self

from detector.config import DataConfig
from detector.train import schedule
from detector.train.schedule import Plan
from detector.types import BatchShape


class Shapes:
    """Gives the shape of every batch, the same in all processes, however far ahead the loader of each one is.

    Where the length is in minutes, the cut-outs end at the first batch that no process has asked for yet.
    """

    def __init__(self, plan: Plan, data: DataConfig, canvas_hw: tuple[int, int], *, first: int) -> None:
        """Args: `first` is the step of the first batch."""
        self._plan = plan
        self._data = data
        self._canvas_hw = canvas_hw
        self._whole_from: int | None = None
        self.asked = first
        """The step whose batch is asked for next."""

    def agreed(self, progress: float, asked: int) -> None:
        """All processes have heard how far the run is, and the highest `asked` of them all."""
        if self._whole_from is None and progress >= self._data.crops.share:
            self._whole_from = asked

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchShape:
        step = self.asked
        self.asked += 1
        if self._plan.steps is not None:
            progress = self._plan.progress(step, 0.0)
        else:
            progress = 0.0 if self._whole_from is None or step < self._whole_from else 1.0
        return schedule.batch_shape(progress, self._data, self._canvas_hw)
