"""The models that a training run writes: the best on the validation split, and the last."""

import dataclasses
from collections.abc import Callable

from detector.analysis import bootstrap, matching
from detector.data.layout import SplitFiles
from detector.evaluate import coco, engines
from detector.evaluate.coco import Scores, Truth
from detector.evaluate.results import Results
from detector.model import model_file
from detector.model.decode import NotFiniteError
from detector.model.detector import DetectionModel
from detector.model.model_file import TrainedModel
from detector.run import best_scores, confirming, finding
from detector.run.best_scores import BestScores
from detector.run.material import Material
from detector.train.distributed import World
from detector.train.engine import Outcome
from detector.train.health import DivergedError
from detector.train.journal import Journal
from detector.train.keeper import Hooks
from detector.train.run_folder import RunFolder
from detector.train.state import Quality


class ModelKeeper:
    """What the training loop calls back: scores a candidate on the validation split, writes models."""

    def __init__(
        self, trained: TrainedModel, material: Material, folder: RunFolder, record: Journal, world: World
    ) -> None:
        self._world = world
        self._trained = trained
        self._val_columns = material.val_columns
        self._dtype = material.facts.dtype
        self._folder = folder
        self._record = record
        self._truth: Truth | None = None
        self._scores: Scores | None = None
        self._circumstances = confirming.circumstances(trained.config, material.identity, world)
        self._named: set[str] = set()

    def hooks(self) -> Hooks:
        return Hooks(
            evaluate=self.evaluate if self._val_columns else None,
            keep_best=self.keep_best,
            keep_last=self.keep_last,
            confirm=self.confirm,
        )

    def evaluate(self, candidate: DetectionModel, should_stop: Callable[[], bool]) -> Quality | None:
        assert self._val_columns is not None
        try:
            results = finding.find(
                [self._with(candidate)],
                self._val_columns,
                self._world,
                self._name_once,
                should_stop=should_stop,
                dtype=self._dtype,
            )
        except NotFiniteError as error:
            if self._world.size > 1:  # the others may have seen nothing of it
                raise
            raise DivergedError("what the model says of the validation images is not finite") from error
        if results is None:
            return None
        scored = self._world.share(self._score(results) if self._world.is_first else None)
        assert scored is not None
        self._scores, resampled = scored
        return Quality(ap=self._scores.ap, ap50=self._scores.ap50, resampled=resampled)

    def _score(self, results: Results) -> tuple[Scores, tuple[float, ...]]:
        """The numbers, and AP of the resamplings by which one scoring is told from another."""
        assert self._val_columns is not None
        if self._truth is None:
            self._truth = coco.read_truth(self._val_columns.annotations)
        found = coco.by_row(results, self._truth)
        curves = engines.curves("hotcoco", self._truth.objects, found)
        resampled = bootstrap.resampled_ap(matching.match(self._truth.objects, found))
        return coco.scores_of(curves, self._truth, found), resampled

    def keep_best(self, candidate: DetectionModel) -> None:
        """Of several processes the first writes; where it cannot, all hear of it."""
        failure: OSError | None = None
        if self._world.is_first:
            try:
                self._write_best(candidate)
            except OSError as error:
                failure = error
        failure = self._world.share(failure)
        if failure is not None:
            raise failure

    def _write_best(self, candidate: DetectionModel) -> None:
        model_file.save(self._folder.best, self._with(candidate))
        if self._scores is not None:
            best_scores.write(self._folder, BestScores(scores=self._scores, scored_on=self._circumstances))

    def keep_last(self, candidate: DetectionModel) -> None:
        if self._world.is_first:
            model_file.save(self._folder.last, self._with(candidate))

    def confirm(self, should_stop: Callable[[], bool]) -> None:
        """Score the file of the best model as `detector eval` does; see `confirming`."""
        assert self._val_columns is not None
        split = SplitFiles(annotations=self._val_columns.annotations, images=self._val_columns.images)
        confirming.confirm(
            self._folder,
            split,
            self._world,
            self._circumstances,
            say=self._record.say,
            should_stop=should_stop,
            dtype=self._dtype,
        )

    def scores_of(self, outcome: Outcome) -> Scores | None:
        """Of the best model; it may have been found by an earlier process."""
        noted = None if outcome.best is None else best_scores.read(self._folder)
        return None if noted is None else noted.scores

    def _with(self, candidate: DetectionModel) -> TrainedModel:
        """The candidate in place of the model that is being trained."""
        return dataclasses.replace(self._trained, model=candidate)

    def _name_once(self, reason: str) -> None:
        if reason not in self._named:
            self._named.add(reason)
            self._record.say(f"validation counts its objects as missed: {reason}")
