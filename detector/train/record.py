"""What a run writes down: `metrics.jsonl`, `train.log`, `status.json`, and the progress line on standard error.

A disk that is full or gone stops none of it: what cannot be written is lost, said once, and training goes on.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from detector.errors import DetectorError
from detector.printable import visible
from detector.progress import Screen
from detector.train import distributed, run_status
from detector.train.board import Board
from detector.train.run_folder import RunFolder
from detector.train.run_status import State, Status


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
    gain: float | None = None  # of AP, over the best before
    noise: float | None = None  # standard error of that gain, for other images of the same kind

    def words(self) -> str:
        """On the best so far."""
        if not self.is_best:
            return ""
        if self.gain is None or self.noise is None or self.gain > self.noise:
            return "  (best so far)"
        return f"  (best so far, within noise: {self.gain:+.3f}, noise {self.noise:.3f})"


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


def _training_curves(m: StepMetrics) -> dict[str, float | None]:
    """What TensorBoard is shown of a record, by the names of its curves."""
    shares = {f"balance/{branch.name}": branch.share for branch in m.branches}
    cosines = {f"cosine/{pair.a}, {pair.b}": pair.cosine for pair in m.cosines}
    losses = {f"loss/{name}": value for name, value in m.losses.items()}
    rates = {"train/lr": m.lr, "train/images per second": m.images_per_second, "train/waiting": m.waiting}
    return {**losses, **shares, **cosines, **rates}


def _why(error: BaseException) -> str:
    if distributed.is_of_lost_process(error):
        return distributed.LOST
    return str(error) if isinstance(error, DetectorError) else f"{type(error).__name__}: {error}"


class Record:
    """Writes to the run folder and shows progress: a live line on a terminal, now and then a line elsewhere."""

    SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal to redraw

    def __init__(self, folder: Path, *, has_stages: bool = False, board: Board | None = None) -> None:
        self._folder = folder
        self._board = board
        self._has_stages = has_stages
        self._console = Screen()
        self._metrics = (folder / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._log = (folder / "train.log").open("a", encoding="utf-8", buffering=1)
        self._complained = False
        self._last_line = float("-inf")
        self._task: TaskID | None = None
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._status = Status()

    def __enter__(self) -> Self:
        self.update()
        self._progress.start()
        self._task = self._progress.add_task("starting", total=1.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.update(state="interrupted", reason="Ctrl-C")
        elif error is not None:
            self.update(state="failed", reason=_why(error))
        self._progress.stop()
        if self._board is not None:
            self._board.close()
        for file in (self._metrics, self._log):
            try:
                file.close()
            except OSError as failure:
                self._complain(failure)

    def go_back(self, length: int) -> None:
        """Put aside what metrics.jsonl says beyond `length` bytes, of steps that will be done again."""
        RunFolder(path=self._folder).cut_metrics(length)

    @property
    def metrics_bytes(self) -> int:
        """Length of metrics.jsonl."""
        return os.fstat(self._metrics.fileno()).st_size

    def step(self, metrics: StepMetrics, progress: float) -> None:
        """Record training so far; `progress` is the share of the run that is done."""
        self._write({"kind": "train", **asdict(metrics)})
        self._draw(_training_curves(metrics), metrics.step)
        self.update(
            state="running",
            step=metrics.step,
            epoch=metrics.epoch,
            progress=progress,
            losses=metrics.losses,
            lr=metrics.lr,
            images_per_second=metrics.images_per_second,
            seconds=metrics.seconds,
            eta_seconds=metrics.eta_seconds,
        )
        text = visible(describe(metrics, has_stages=self._has_stages))
        if self._task is not None:
            self._progress.update(self._task, completed=progress, description=text)
        self._append(self._log, f"{text}\n")
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= self.SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._console.print(f"{progress:4.0%}  {text}", markup=False)

    def evaluation(self, metrics: EvaluationMetrics) -> None:
        self._write({"kind": "evaluation", **asdict(metrics)})
        self._draw({"validation/AP": metrics.ap, "validation/AP50": metrics.ap50}, metrics.step)
        best_ap = metrics.ap if metrics.is_best else self._status.best_ap
        self.update(ap=metrics.ap, best_ap=best_ap)
        self.say(
            f"validation at step {metrics.step}, epoch {metrics.epoch:.1f}: "
            f"AP {metrics.ap:.3f}  AP50 {metrics.ap50:.3f}{metrics.words()}"
        )

    def saved(self, step: int) -> None:
        """A checkpoint is on the disk."""
        self.update(checkpoint_step=step)

    def skipped(self, count: int) -> None:
        """So many steps of the run were not finite."""
        self.update(skipped_steps=count)

    def ended(self, state: State, reason: str) -> None:
        self.update(state=state, reason=reason, eta_seconds=None)

    def say(self, text: str) -> None:
        """A line worth keeping, on standard error and in the log."""
        line = visible(text)
        self._append(self._log, f"{line}\n")
        self._console.print(line, markup=False)

    def update(self, **changes: Any) -> None:
        """Write the status anew."""
        self._status = replace(self._status, updated=run_status.now(), **changes)
        try:
            run_status.write(self._folder, self._status)
        except OSError as error:
            self._complain(error)

    def _write(self, row: dict[str, object]) -> None:
        self._append(self._metrics, json.dumps(row) + "\n")

    def _draw(self, curves: Mapping[str, float | None], step: int) -> None:
        if self._board is not None:
            try:
                self._board.add({name: value for name, value in curves.items() if value is not None}, step)
            except OSError as error:
                self._board = None
                self._complain(error)

    def _append(self, file: TextIO, text: str) -> None:
        try:
            file.write(text)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            self._console.print(
                visible(
                    f"warning: {self._folder}: the record of the run cannot be written ({error.strerror}); "
                    "training goes on without it"
                ),
                markup=False,
            )
