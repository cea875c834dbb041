"""Scoring on the way, and the best model."""

from collections.abc import Callable
from dataclasses import dataclass

from detector import files
from detector.model.detector import DetectionModel
from detector.train import noise
from detector.train.journal import Journal
from detector.train.learner import Learner
from detector.train.record import EvaluationMetrics
from detector.train.state import LoopState, Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the loop calls back; the composition root knows how it is done."""

    evaluate: Callable[[DetectionModel, Callable[[], bool]], Quality | None] | None
    """Score the validation split, asking now and then whether to stop, and then without a result; None where there is
    no such split."""
    keep_best: Callable[[DetectionModel], None]
    keep_last: Callable[[DetectionModel], None]
    confirm: Callable[[Callable[[], bool]], None] | None = None
    """Score the file of the best model anew at the end, asking now and then whether to leave it; raises where it gives
    other numbers."""


class Keeper:
    """Scores the model when asked and keeps the best.

    The best has the highest AP, also where the gain is within noise: of two models scored on the same images, the one
    that scored higher is the better guess for other images too, however small the gain. To prefer the later of two that
    are within noise of one another would follow a run that overfits down, each step of it within noise of the one
    before. Of equal scores the later is kept: it has learned longer.

    Patience counts from the reference, not from the best: gains that are each within noise are clear once they add up.
    """

    def __init__(
        self,
        hooks: Hooks,
        record: Journal,
        *,
        is_stopping: Callable[[], bool],
        hurry: Callable[[], bool],
        loop: LoopState,
    ) -> None:
        """Args: `is_stopping` is alike in all processes, `hurry` tells a scoring of this one to break off."""
        self._hooks = hooks
        self._record = record
        self._is_stopping = is_stopping
        self._hurry = hurry
        self._has_best = loop.best is not None
        self._scored_at: int | None = None
        self.best = loop.best
        self.evaluations = loop.evaluations
        self.reference = loop.reference
        self.since_reference = loop.evaluations_since_reference

    def evaluate(self, learner: Learner, epoch: float, seconds: float) -> bool:
        """Whether it came to an end."""
        if self._hooks.evaluate is None:
            self._keep_best(learner)
            return True
        quality = self._hooks.evaluate(learner.kept, self._hurry)
        if quality is None:
            return False
        gain = None if self.best is None else noise.gain(quality, self.best)
        is_best = gain is None or gain.value >= 0
        if is_best and self._keep_best(learner):
            self.best = quality
        if self.reference is None or noise.gain(quality, self.reference).is_clear:
            self.reference, self.since_reference = quality, 0
        else:
            self.since_reference += 1
        self._scored_at = learner.steps
        self._record.evaluation(
            EvaluationMetrics(
                step=learner.steps,
                epoch=epoch,
                seconds=seconds,
                ap=quality.ap,
                ap50=quality.ap50,
                is_best=is_best,
                gain=None if gain is None else gain.value,
                noise=None if gain is None else gain.noise,
            )
        )
        return True

    def finish(self, learner: Learner, epoch: float, seconds: float) -> bool:
        """Keep the end of the run and score it, unless the user waits for it to stop; whether all of that was done."""
        self._hooks.keep_last(learner.kept)
        is_done = not self._is_stopping() and (
            self._scored_at == learner.steps or self.evaluate(learner, epoch, seconds)
        )
        if not self._has_best:  # users look for a model under this name
            self._hooks.keep_best(learner.kept)
        if is_done and self._hooks.confirm is not None and self.best is not None:
            self._hooks.confirm(self._hurry)
        return is_done

    def _keep_best(self, learner: Learner) -> bool:
        try:
            self._hooks.keep_best(learner.kept)
        except OSError as error:
            why = f"({error.strerror or error}); {files.cure(error)}"
            self._record.say(f"warning: the best model so far could not be written {why}")
            return False
        self._has_best = True
        return True
