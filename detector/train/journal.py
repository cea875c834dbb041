"""Who is told how training goes."""

from types import TracebackType
from typing import Any, Protocol, Self

from detector.train.record import EvaluationMetrics, StepMetrics
from detector.train.run_status import State


class Journal(Protocol):
    """The record of a run; of several processes, all but the first have one that is silent."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    @property
    def metrics_bytes(self) -> int: ...

    def go_back(self, length: int) -> None: ...
    def step(self, metrics: StepMetrics, progress: float) -> None: ...
    def evaluation(self, metrics: EvaluationMetrics) -> None: ...
    def saved(self, step: int) -> None: ...
    def skipped(self, count: int) -> None: ...
    def ended(self, state: State, reason: str) -> None: ...
    def say(self, text: str) -> None: ...
    def update(self, **changes: Any) -> None: ...


class Silence:
    """Writes nothing and says nothing: the first of several processes does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    @property
    def metrics_bytes(self) -> int:
        return 0

    def go_back(self, length: int) -> None:
        pass

    def step(self, metrics: StepMetrics, progress: float) -> None:
        pass

    def evaluation(self, metrics: EvaluationMetrics) -> None:
        pass

    def saved(self, step: int) -> None:
        pass

    def skipped(self, count: int) -> None:
        pass

    def ended(self, state: State, reason: str) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def update(self, **changes: Any) -> None:
        pass
