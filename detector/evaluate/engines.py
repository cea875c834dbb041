"""The curves behind the COCO numbers, by pycocotools or by hotcoco.

pycocotools is the definition. hotcoco computes the same arrays some tens of times faster; a test holds the two equal.
Both get images and classes as 1, 2, ... in the order of their ids, which decides between equal scores, and objects with
ids of our own: pycocotools takes id 0 for "no match" and reads one of two annotations of equal id twice.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal, assert_never, get_args

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluate import sizes
from detector.evaluate.results import Results

Engine = Literal["hotcoco", "pycocotools"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_LIMITS = (1, 10, 100)  # detections for an image and class


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Ground truth. Rows of images and classes count from 0 in the order of their ids."""

    num_images: int
    num_classes: int
    image_rows: NDArray[np.int64]  # [T]
    class_rows: NDArray[np.int64]  # [T]
    boxes_xywh: NDArray[np.float64]  # [T, 4]
    areas: NDArray[np.float64]  # [T]
    is_crowd: NDArray[np.bool_]  # [T]

    @property
    def is_ignored(self) -> NDArray[np.bool_]:
        """[T], that nobody has to find: crowd regions, and areas outside COCO's range."""
        return self.is_crowd | ~sizes.within(self.areas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """-1 where the ground truth has no object; the sizes are all, small, medium, large; the limits 1, 10, 100."""

    precision: NDArray[np.float64]  # [IoU threshold, recall, class, size, limit]
    recall: NDArray[np.float64]  # [IoU threshold, class, size, limit]

    def twelve(self) -> tuple[float, ...]:
        """The numbers in the order of pycocotools' `stats`."""
        at_100 = self.precision[..., 2]
        precisions = (at_100[..., 0], at_100[:1, ..., 0], at_100[5:6, ..., 0], *(at_100[..., k] for k in (1, 2, 3)))
        recalls = (*(self.recall[..., 0, k] for k in range(3)), *(self.recall[..., k, 2] for k in (1, 2, 3)))
        return tuple(known_mean(values) for values in (*precisions, *recalls))


def known_mean(values: NDArray[np.float64]) -> float:
    """Mean of what is defined, -1 where nothing is."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def curves(engine: Engine, truth: Objects, found: Results) -> Curves:
    """Score detections, whose ids of images and classes are rows as in `truth`."""
    match engine:
        case "hotcoco":
            return _by_hotcoco(truth, found)
        case "pycocotools":
            return _by_pycocotools(truth, found)
        case _:
            assert_never(engine)


def _by_hotcoco(truth: Objects, found: Results) -> Curves:
    objects = hotcoco.COCO.from_arrays(
        _numbered(truth.num_images),
        _numbered(truth.num_classes),
        truth.image_rows + 1,
        truth.class_rows + 1,
        truth.boxes_xywh,
        area=truth.areas,
        iscrowd=truth.is_crowd.astype(np.int64),
    )
    # As `load_res` wants them; rows are small enough for a float.
    columns = (found.image_ids + 1, found.boxes_xywh, found.scores, found.category_ids + 1)
    evaluation = hotcoco.COCOeval(objects, objects.load_res(np.column_stack(columns)), "bbox")
    evaluation.params.iou_thrs = _IOU_THRESHOLDS.tolist()
    evaluation.params.rec_thrs = _RECALLS.tolist()
    evaluation.params.max_dets = list(_LIMITS)
    evaluation.evaluate()
    evaluation.accumulate()
    made = evaluation.eval
    assert made is not None, "accumulate has just been called"
    return Curves(precision=made["precision"], recall=made["recall"])


def _by_pycocotools(truth: Objects, found: Results) -> Curves:
    columns = (truth.image_rows + 1, truth.class_rows + 1, truth.boxes_xywh, truth.areas, truth.is_crowd)
    objects = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for number, (image, category, box, area, crowd) in enumerate(zip(*_lists(columns), strict=True), start=1)
    ]
    # Records as `COCO.loadRes` makes them, which itself fails on an empty list.
    columns = (found.image_ids + 1, found.category_ids + 1, found.boxes_xywh, found.scores)
    detections = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "score": score}
        | {"area": box[2] * box[3], "iscrowd": 0}
        for number, (image, category, box, score) in enumerate(zip(*_lists(columns), strict=True), start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(truth, objects), _index(truth, detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(precision=evaluation.eval["precision"], recall=evaluation.eval["recall"])


def _index(truth: Objects, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    dataset: dict[str, Any] = {
        "images": _numbered(truth.num_images),
        "categories": _numbered(truth.num_classes),
        "annotations": annotations,
    }
    coco.dataset = dataset  # pyright: ignore[reportAttributeAccessIssue] - inferred from its empty start
    coco.createIndex()
    return coco


def _numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": str(number)} for number in range(1, count + 1)]


def _lists(columns: tuple[NDArray[Any], ...]) -> list[list[Any]]:
    return [column.tolist() for column in columns]
