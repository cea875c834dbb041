"""The record that the processes keep which do not speak for the run."""

from types import TracebackType
from typing import Any, Self

from detector.train.record import EvaluationMetrics, Record, StepMetrics


class SilentRecord(Record):
    """Writes nothing and says nothing: the first of several processes does."""

    def __init__(self) -> None:  # no files
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def go_back(self, length: int) -> None:
        pass

    @property
    def metrics_bytes(self) -> int:
        return 0

    def step(self, metrics: StepMetrics, progress: float) -> None:
        pass

    def evaluation(self, metrics: EvaluationMetrics) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def update(self, **changes: Any) -> None:
        pass
