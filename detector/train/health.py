"""Steps whose loss or gradient is not finite: left out, counted, written down, and in a row the end of the attempt.

The optimizer leaves such a step out by itself, on the device. What is left to do here is to put back the statistics of
the norms, which the forward pass has already spoilt, and to tell. On a GPU that happens two steps late, so that no step
waits for the device.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from detector.train.learner import Learned, Learner
from detector.train.state import LoopState
from detector.types import Batch

IN_A_ROW = 5
"""Steps that end an attempt."""
FILES = 3
"""Steps of a run that are written down whole."""
_LAG = {"cpu": 0, "cuda": 2}


class DivergedError(Exception):
    """Step after step is not finite."""

    seconds: float = 0.0
    """Spent on the run by then."""
    skipped: int = 0
    """Steps of the run that were left out by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A step that was left out."""

    step: int
    progress: float
    lr: float
    stage: int
    batch: Batch
    learned: Learned


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    suspect: Suspect
    statistics: list[Tensor]
    """As they were before the step."""


class Health:
    """Watches every step."""

    def __init__(
        self,
        learner: Learner,
        loop: LoopState,
        *,
        say: Callable[[str], None],
        write: Callable[[Suspect], str | None],
    ) -> None:
        """Args: `write` writes a suspect down and says where."""
        self._learner = learner
        self._say = say
        self._write = write
        self._lag = _LAG.get(learner.device.type, 0)
        self._statistics = learner.statistics()
        self._spare = deque([torch.empty_like(s) for s in self._statistics] for _ in range(self._lag + 1))
        self._watched: deque[_Watched] = deque()
        self._before: list[Tensor] = []
        self.skipped = loop.skipped
        self.in_a_row = loop.skipped_in_a_row

    def about_to_learn(self) -> None:
        """Remember what a step may spoil."""
        self._before = self._spare.popleft()
        if self._before:
            torch._foreach_copy_(self._before, self._statistics)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def add(self, batch: Batch, learned: Learned, progress: float) -> None:
        """Take in a step that was done.

        Raises:
            DivergedError: too many in a row were not finite.
        """
        suspect = Suspect(
            step=self._learner.steps,
            progress=progress,
            lr=self._learner.lr,
            stage=learned.stage,
            batch=batch,
            learned=learned,
        )
        self._watched.append(_Watched(suspect=suspect, statistics=self._before))
        while len(self._watched) > self._lag:
            self._judge(self._watched.popleft())

    def settle(self) -> None:
        """Judge all steps, waiting for the device: before the state is saved or the model scored.

        Raises:
            DivergedError: too many in a row were not finite.
        """
        while self._watched:
            self._judge(self._watched.popleft())

    def _judge(self, watched: _Watched) -> None:
        self._spare.append(watched.statistics)
        suspect = watched.suspect
        if bool(suspect.learned.is_finite):
            self.in_a_row = 0
            return
        if watched.statistics:
            torch._foreach_copy_(self._statistics, watched.statistics)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        self.skipped += 1
        self.in_a_row += 1
        file = self._write(suspect) if self.skipped <= FILES else None
        self._say(
            f"warning: the {_culprit(suspect.learned)} of step {suspect.step} is not finite: the step was left out"
            f" ({self.skipped} so far)" + (f"; `detector replay {file}` computes it again" if file else "")
        )
        if self.in_a_row >= IN_A_ROW:
            raise DivergedError(
                f"{self.in_a_row} steps in a row were not finite, the last is {suspect.step} (lr {suspect.lr:.1e})"
            )


def _culprit(learned: Learned) -> str:
    """The losses that are not finite, else the gradient."""
    finite = cast("list[bool]", torch.isfinite(learned.losses.values).tolist())
    bad = [term for term, is_finite in zip(learned.losses.terms, finite, strict=True) if not is_finite]
    return f"loss {', '.join(bad)}" if bad else "gradient"
