"""Why a network may fail to learn a few images by heart: what can be seen in their boxes and in the settings."""

import math
from dataclasses import dataclass

import torch

from detector.config import RunConfig
from detector.data.columns import ReadReport
from detector.evaluate.coco import Scores
from detector.geometry import boxes as box_math
from detector.targets import assign
from detector.types import Priors, Targets

SMALLEST = 8.0  # pixels of the canvas, the stride of the finest features
_LARGEST_SIZE = 4096
_MANY = 0.05
_SAME_PLACE = 0.9
_SCORED = 100  # detections of an image and class that COCO's AP looks at
_FALLEN = 0.5  # of the first loss, what is left of it when something was learned


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How the losses went."""

    first: float
    last: float
    num_not_finite: int


def of_course(course: Course, config: RunConfig, init: str) -> list[str]:
    """Causes in the settings."""
    causes: list[str] = []
    if course.num_not_finite:
        causes.append(
            f"the loss was not finite in {course.num_not_finite} steps: lower optim.lr (now {config.optim.lr:g}), or "
            "set precision=float32"
        )
    if not course.last <= _FALLEN * course.first:
        causes.append(
            f"the loss does not fall ({course.first:.3g} at first, {course.last:.3g} at the end): optim.lr = "
            f"{config.optim.lr:g} may be far too high or too low, or a loss has no weight"
        )
    if init == "none" and (config.model.norm == "frozen" or config.model.frozen_stages):
        causes.append("parts of the trunk are held still with random weights: give --init imagenet or a model file")
    return causes


def of_labels(report: ReadReport, scores: Scores) -> list[str]:
    """Causes in the annotation file, and the class that went worst."""
    causes: list[str] = []
    outside = report.clipped + report.dropped_outside
    if outside > _MANY * report.listed:
        causes.append(
            f"{outside} of {report.listed} boxes leave their image: were they made for other images, or for these "
            "before they were resized?"
        )
    known = [one for one in scores.per_class if one.ap50 >= 0]
    if len(known) > 1:
        worst = min(known, key=lambda one: one.ap50)
        causes.append(f"the worst class is {worst.name}: AP50 {worst.ap50:.2f} of {worst.num_objects} objects")
    return causes


def of_boxes(targets: Targets, priors: Priors, config: RunConfig) -> list[str]:
    """Causes in the boxes, which are on the canvas."""
    total = int(targets.is_object.sum())
    sides = box_math.area(targets.boxes).sqrt()[targets.is_object]
    size = config.data.image_size
    causes: list[str] = []
    num_tiny = int((sides < SMALLEST).sum())
    if num_tiny > _MANY * total:
        side = float(sides.quantile(_MANY))
        wanted = min(_LARGEST_SIZE, 32 * math.ceil(size * SMALLEST / max(side, 0.1) / 32))
        cure = f"--image-size {wanted}" if wanted > size else "cutting the images into parts"
        causes.append(
            f"{num_tiny} of {total} objects are under {SMALLEST:g} pixels at image size {size}; {cure} would help"
        )
    num_unreached = _num_unreached(targets, priors, config)
    if num_unreached:
        causes.append(
            f"no prior answers for {num_unreached} of {total} objects: change model.priors.scales or --image-size"
        )
    overlap, other = _pairs(targets, config.decode.nms_iou)
    if overlap:
        causes.append(
            f"{_pairs_text(overlap)} of objects of one class overlap by more than decode.nms_iou = "
            f"{config.decode.nms_iou:g}, of which one is always suppressed: boxes that stand twice, or a higher "
            "decode.nms_iou"
        )
    if other:
        causes.append(f"{_pairs_text(other)} of objects of different classes in the same place: look at these labels")
    most = int(targets.is_object.sum(dim=1).max())
    limit = min(_SCORED, config.decode.max_detections)
    if most > limit:
        causes.append(f"an image has {most} objects, and no more than {limit} of an image are kept: cut it into parts")
    return causes


def _pairs_text(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"


def _num_unreached(targets: Targets, priors: Priors, config: RunConfig) -> int:
    found = assign.assign(targets, priors, config.assign)
    reached = torch.zeros_like(targets.is_object)
    for row, matched, is_positive in zip(reached, found.matched, found.is_positive, strict=True):
        row[matched[is_positive]] = True
    return int((targets.is_object & ~reached).sum())


def _pairs(targets: Targets, nms_iou: float) -> tuple[int, int]:
    """Pairs of one class that suppress one another, and pairs of two classes that are one place."""
    iou = box_math.pairwise_iou(targets.boxes, targets.boxes)
    real = targets.is_object[:, :, None] & targets.is_object[:, None]
    is_same = targets.labels[:, :, None] == targets.labels[:, None]
    upper = torch.ones_like(real[0]).triu(diagonal=1)
    overlap = (iou > nms_iou) & real & is_same & upper
    other = (iou > _SAME_PLACE) & real & ~is_same & upper
    return int(overlap.sum()), int(other.sum())
