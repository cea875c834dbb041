"""What a run writes down while it trains: `metrics.jsonl`, `train.log`, and the progress line on standard error."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchMetrics:
    """One branch at the junction."""

    name: str
    loss: float  # weighted, before balancing
    weight: float  # what the balancer puts on that loss
    gradient_norm: float | None  # at the trunk; None where the trunk does not learn
    share: float | None  # of the sum of all branches' norms


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineMetrics:
    """How far two branches pull the trunk the same way."""

    a: str
    b: str
    cosine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """Training as it stands, averaged since the last record."""

    step: int
    epoch: float
    stage: str
    losses: dict[str, float]
    """Unweighted, by `branch.term`."""
    branches: tuple[BranchMetrics, ...]
    cosines: tuple[CosineMetrics, ...]
    lr: float
    images_per_second: float
    seconds: float  # since the start of training
    eta_seconds: float | None
    waiting: float  # share of the time in which the next batch was not there yet


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationMetrics:
    """One scoring of the validation split."""

    step: int
    epoch: float
    seconds: float
    ap: float
    ap50: float
    is_best: bool


def describe(m: StepMetrics, *, has_stages: bool) -> str:
    """The progress line's text."""
    stage = f"  stage {m.stage}" if has_stages else ""
    losses = "  ".join(f"{branch.name} {branch.loss:.3f}" for branch in m.branches)
    eta = "?" if m.eta_seconds is None else _clock(m.eta_seconds)
    return (
        f"epoch {m.epoch:.1f}  step {m.step}{stage}  {losses}{_balance(m.branches)}  "
        f"lr {m.lr:.1e}  {m.images_per_second:.1f} img/s  ETA {eta}"
    )


def _balance(branches: Sequence[BranchMetrics]) -> str:
    """Shares of the gradient at the trunk in percent, in the order of the losses before it."""
    shares = [branch.share for branch in branches]
    if len(shares) < 2 or any(share is None for share in shares):
        return ""
    return "  balance " + ":".join(f"{100 * share:.0f}" for share in shares if share is not None)


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return (
        f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02}"
    )


class Record:
    """Writes to the run folder and shows progress: a live line on a terminal, now and then a line elsewhere."""

    SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal to redraw

    def __init__(self, folder: Path, *, has_stages: bool = False) -> None:
        self._has_stages = has_stages
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._log = (folder / "train.log").open("a", encoding="utf-8", buffering=1)
        self._last_line = float("-inf")
        self._task: TaskID | None = None
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("starting", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._metrics.close()
        self._log.close()

    def step(self, metrics: StepMetrics, progress: float) -> None:
        """Record training so far; `progress` is the share of the run that is done."""
        self._write({"kind": "train", **asdict(metrics)})
        text = describe(metrics, has_stages=self._has_stages)
        if self._task is not None:
            self._progress.update(self._task, completed=progress, description=text)
        self._log.write(f"{text}\n")
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= self.SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(f"{progress:4.0%}  {text}", markup=False)

    def evaluation(self, metrics: EvaluationMetrics) -> None:
        self._write({"kind": "evaluation", **asdict(metrics)})
        best = "  (best so far)" if metrics.is_best else ""
        self.say(
            f"validation at step {metrics.step}, epoch {metrics.epoch:.1f}: "
            f"AP {metrics.ap:.3f}  AP50 {metrics.ap50:.3f}{best}"
        )

    def say(self, text: str) -> None:
        """A line worth keeping, on standard error and in the log."""
        self._log.write(f"{text}\n")
        self._console.print(text, markup=False)

    def _write(self, row: dict[str, object]) -> None:
        self._metrics.write(json.dumps(row) + "\n")
