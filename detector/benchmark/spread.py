"""Several measurements of one thing."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median=statistics.median(values), min=min(values), max=max(values))

    def text(self) -> str:
        return f"{self.median:.2f} ({self.min:.2f}-{self.max:.2f})"
