"""Can this network learn eight of these images by heart? Where it cannot, no longer training will help."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from detector.config import CropConfig, LengthConfig, RunConfig
from detector.data import batch as batches
from detector.data.batch import Item
from detector.data.columns import Columns, subset
from detector.data.dataset import EvaluationSet
from detector.errors import DataError
from detector.evaluate import coco, collect, engines
from detector.evaluate.coco import Scores
from detector.fitting.choice import AutoRecipe
from detector.model import device as devices
from detector.model import inference
from detector.run import assembly, diagnosis, fitting
from detector.run.assembly import Assembly
from detector.run.data_paths import DataPaths
from detector.run.diagnosis import Course
from detector.run.finding import BATCH_SIZE
from detector.run.forecasting import span
from detector.run.material import Material, gather, read
from detector.train import distributed
from detector.train.distributed import World
from detector.types import Batch

IMAGES = 8
STEPS = 200
ENOUGH = 0.9
"""AP50 on the very images that were trained on."""
_LOOKS = (0.5, 0.75, 1.0)
"""Shares of the steps after which is looked whether it is enough."""
_LOWEST_ADAMW_LR = 1e-3
_WARMUP_STEPS = 20
_ENDS = 5  # steps of which a mean stands for the first loss, and for the last
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeOutcome:
    """What came out."""

    passed: bool
    ap50: float
    num_images: int
    num_objects: int
    steps: int
    seconds: float
    course: Course
    causes: tuple[str, ...]
    """What may be wrong; none where it passed."""

    def text(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        line = (
            f"{verdict}  AP50 {_on_its_side(self.ap50)} on the {self.num_images} images ({self.num_objects} objects) "
            f"that were trained on; loss {self.course.first:.3g} -> {self.course.last:.3g} in {self.steps} steps, "
            f"{span(self.seconds)}"
        )
        return "\n".join([line, *(f"- {cause}" for cause in self.causes)])

    def values(self) -> dict[str, object]:
        made = dataclasses.asdict(self)
        course = {key: value if math.isfinite(value) else None for key, value in made.pop("course").items()}
        return {**made, "causes": list(self.causes), "loss": course}


def _on_its_side(ap50: float) -> str:
    """With as many digits as show whether it is enough."""
    texts = (f"{ap50:.{digits}f}" for digits in range(2, 18))
    return next((text for text in texts if (float(text) >= ENOUGH) == (ap50 >= ENOUGH)), repr(ap50))


def smoke(
    data: DataPaths, config: RunConfig | AutoRecipe, *, init: str, device: str, say: Callable[[str], None]
) -> SmokeOutcome:
    """Train on eight images and score on them; nothing is written. See `detector train --smoke`."""
    distributed.require_alone("--smoke")
    world = World(device=devices.resolve(device))
    splits = read(data)
    settled, _ = fitting.settled(config, splits.train, world, init)
    material = gather(splits, _settings(settled), world, init, None)
    columns, items = _chosen(material, say)
    made = assembly.build(material, init, world)
    trial = _Trial(made, material, columns, items, say)
    scores = trial.run()
    course = trial.course()
    passed = scores.ap50 >= ENOUGH
    return SmokeOutcome(
        passed=passed,
        ap50=scores.ap50,
        num_images=len(items),
        num_objects=int((~columns.is_crowd).sum()),
        steps=made.learner.steps,
        seconds=trial.seconds,
        course=course,
        causes=() if passed else _causes(made, material, items, course, scores, init),
    )


def _settings(config: RunConfig) -> RunConfig:
    """Those of the user, without what a short run on still images has no time or use for."""
    optim = config.optim
    return dataclasses.replace(
        config,
        compile=False,
        stages=(),
        distill=dataclasses.replace(config.distill, teacher=None),
        data=dataclasses.replace(config.data, batch_size=min(IMAGES, config.data.batch_size), crops=CropConfig()),
        optim=dataclasses.replace(
            optim,
            lr=max(optim.lr, _LOWEST_ADAMW_LR) if optim.name == "adamw" else optim.lr,
            warmup_steps=min(optim.warmup_steps, _WARMUP_STEPS),
            ema_width=0.0,
        ),
        length=LengthConfig(steps=STEPS),
    )


def _chosen(material: Material, say: Callable[[str], None]) -> tuple[Columns, list[Item]]:
    """The images that can be read, as a data set of their own and on their canvases."""
    columns, preprocess = material.columns, material.facts.preprocess
    whole = EvaluationSet(columns, preprocess)
    rows: list[int] = []
    for row in spread(columns):
        item = whole[row]
        if isinstance(item, DataError) or item.sample is None:
            say(f"left out: {item if isinstance(item, DataError) else item.unreadable[0]}")
            continue
        rows.append(row)
        if len(rows) == IMAGES:
            break
    if not rows:
        raise DataError(f"{columns.annotations}: none of its images with objects in {columns.images} can be read")
    keep = _main_objects(columns) if material.config.assign.kind == "main" else None
    chosen = subset(columns, rows, keep)
    dataset = EvaluationSet(chosen, preprocess)
    items = [item for item in map(dataset.__getitem__, range(len(chosen))) if isinstance(item, Item)]
    return chosen, items


def spread(columns: Columns) -> Iterator[int]:
    """Images with objects, so that the first few show as many classes as they can: the rarest class first, in turns."""
    image_of = np.repeat(np.arange(len(columns)), np.diff(columns.offsets))
    real = ~columns.is_crowd
    counts = np.bincount(columns.labels[real], minlength=len(columns.label_map))
    queues = [
        iter(np.unique(image_of[real & (columns.labels == label)]).tolist())
        for label in np.argsort(counts, kind="stable").tolist()
    ]
    given: set[int] = set()
    while queues:
        for queue in tuple(queues):
            row = next((row for row in queue if row not in given), None)
            if row is None:
                queues.remove(queue)
            else:
                given.add(row)
                yield row


def _main_objects(columns: Columns) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The largest object of each image, which is all that a localizer looks for."""
    sides = columns.boxes[:, 2:] - columns.boxes[:, :2]
    areas = np.where(columns.is_crowd, -1.0, sides.prod(axis=1))
    keep = np.zeros(len(areas), np.bool_)
    for row in range(len(columns)):
        here = columns.objects(row)
        if here.start < here.stop:
            keep[here.start + int(areas[here].argmax())] = True
    return keep


@dataclass(slots=True)
class _Trial:
    """The short training."""

    made: Assembly
    material: Material
    columns: Columns
    items: Sequence[Item]
    say: Callable[[str], None]
    seconds: float = 0.0
    losses: list[Tensor] = field(default_factory=list[Tensor])

    def run(self) -> Scores:
        """Until it is enough, or the steps are done."""
        names = {self.columns.label_map.names[label] for label in cast("list[int]", self.columns.labels.tolist())}
        self.say(
            f"smoke: {len(self.items)} images with {len(self.columns.labels)} objects of {len(names)} classes, "
            f"no augmentation, at most {STEPS} steps on {self.material.facts.device}"
        )
        begun = said = time.monotonic()
        learner = self.made.learner
        looks = [int(share * STEPS) for share in _LOOKS]
        scores: Scores | None = None
        for step, batch in enumerate(self._batches(), start=1):
            learned = learner.learn(batch.to(learner.device), (step - 1) / STEPS)
            self.losses.append(learned.branches.sum())
            self.seconds = time.monotonic() - begun
            if step in looks:
                scores = self._scores()
                if scores.ap50 >= ENOUGH:
                    break
            if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                left = self.seconds / step * (STEPS - step)
                self.say(f"smoke: step {step}, loss {self.losses[-1].item():.3g}, {span(left)} left at most")
        assert scores is not None
        return scores

    def course(self) -> Course:
        losses = cast("list[float]", torch.stack(self.losses).tolist())
        finite = [loss for loss in losses if math.isfinite(loss)] or [math.nan]
        return Course(
            first=statistics.fmean(finite[:_ENDS]),
            last=statistics.fmean(finite[-_ENDS:]),
            num_not_finite=sum(not math.isfinite(loss) for loss in losses),
        )

    def _batches(self) -> Iterator[Batch]:
        random = np.random.Generator(np.random.Philox(self.material.config.seed))
        size = min(len(self.items), self.material.config.data.batch_size)
        queue: list[int] = []
        for _ in range(STEPS):
            if len(queue) < size:
                queue = random.permutation(len(self.items)).tolist()
            yield batches.collate([self.items[row] for row in queue[:size]])
            queue = queue[size:]

    def _scores(self) -> Scores:
        trained = dataclasses.replace(self.made.trained, model=self.made.learner.kept)
        shown = [
            batches.collate(self.items[start : start + BATCH_SIZE]) for start in range(0, len(self.items), BATCH_SIZE)
        ]
        detect = partial(inference.detect, trained, dtype=self.material.facts.dtype)
        truth = coco.truth_of(self.columns)
        found = coco.by_row(collect.results(collect.detections(detect, shown), self.columns), truth)
        return coco.scores_of(engines.curves("hotcoco", truth.objects, found), truth, found)


def _causes(
    made: Assembly, material: Material, items: Sequence[Item], course: Course, scores: Scores, init: str
) -> tuple[str, ...]:
    config, device = material.config, made.learner.device
    targets = batches.collate(items).targets.to(device)
    priors = made.trained.model.priors(material.facts.preprocess.canvas_hw)
    causes = [
        *diagnosis.of_course(course, config, init),
        *diagnosis.of_boxes(targets, priors, config),
        *diagnosis.of_labels(material.columns.report, scores),
    ]
    return tuple(causes) or ("none of the usual causes: look at the images with their boxes drawn in",)
