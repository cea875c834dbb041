"""The COCO numbers, computed by pycocotools, behind checks for the input that it scores wrong in silence.

Equal scores are ranked by image id, then by the order of the results.
"""

import contextlib
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.data import coco as coco_file
from detector.data import records
from detector.data.records import Table
from detector.errors import DataError
from detector.evaluate.results import Results, check_values, is_number


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Average precision of one class; -1 where the ground truth has no object of it."""

    name: str
    category_id: int
    ap: float  # mean over IoU 0.50 to 0.95
    ap50: float
    num_objects: int  # crowd regions not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The twelve COCO numbers in [0, 1]; -1 where the ground truth has no object of that size.

    Small, medium and large are by the area the ground truth states: below 32**2, below 96**2, above.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float  # recall with at most 1 detection for an image and class
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: tuple[ClassScore, ...]  # by category id
    num_images: int
    num_detections: int
    notes: tuple[str, ...]  # what was repaired or left out before scoring

    def twelve(self) -> tuple[float, ...]:
        """The numbers in the order of pycocotools' `stats`."""
        precisions = (self.ap, self.ap50, self.ap75, self.ap_small, self.ap_medium, self.ap_large)
        recalls = (self.ar_1, self.ar_10, self.ar_100, self.ar_small, self.ar_medium, self.ar_large)
        return precisions + recalls


@dataclass(frozen=True, slots=True, kw_only=True)
class _Truth:
    """A private copy of the ground truth, with all that pycocotools reads."""

    image_ids: list[int]
    categories: tuple[tuple[int, str], ...]  # (id, name), by id
    annotations: list[dict[str, Any]]
    notes: tuple[str, ...]


def score(ground_truth: Path, results: Results | Path) -> Scores:
    """Score detections of all images of a COCO file; an image without detections counts its objects as missed.

    Raises:
        DataError: a file is damaged, or a detection names an image or category the ground truth has not.
    """
    source = "predictions"
    if isinstance(results, Path):
        source = str(results)
        results = Results.read(results)
    check_values(results, source=source)
    truth = _read_truth(ground_truth)
    category_ids = [category_id for category_id, _ in truth.categories]
    _check_ids(results.image_ids, truth.image_ids, "image_id", source=source, ground_truth=ground_truth)
    _check_ids(results.category_ids, category_ids, "category_id", source=source, ground_truth=ground_truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_index(truth, truth.annotations), _index(truth, _detections(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return _scores(evaluation, truth, num_detections=len(results))


def _index(truth: _Truth, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    dataset: dict[str, Any] = {
        "images": [{"id": image_id} for image_id in truth.image_ids],
        "categories": [{"id": category_id, "name": name} for category_id, name in truth.categories],
        "annotations": annotations,
    }
    coco.dataset = dataset  # pyright: ignore[reportAttributeAccessIssue] - inferred from its empty start
    coco.createIndex()
    return coco


def _detections(results: Results) -> list[dict[str, Any]]:
    """Records as `COCO.loadRes` makes them, which itself fails on an empty list."""
    return [
        {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
        for number, record in enumerate(results.to_coco_json(), start=1)
    ]


def _scores(evaluation: COCOeval, truth: _Truth, *, num_detections: int) -> Scores:
    ap, ap50, ap75, ap_s, ap_m, ap_l, ar_1, ar_10, ar_100, ar_s, ar_m, ar_l = (float(x) for x in evaluation.stats)
    # [IoU threshold, recall, class], at all sizes and 100 detections
    precision: NDArray[np.float64] = evaluation.eval["precision"][:, :, :, 0, 2]
    objects = Counter(record["category_id"] for record in truth.annotations if not record["iscrowd"])
    return Scores(
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        ap_small=ap_s,
        ap_medium=ap_m,
        ap_large=ap_l,
        ar_1=ar_1,
        ar_10=ar_10,
        ar_100=ar_100,
        ar_small=ar_s,
        ar_medium=ar_m,
        ar_large=ar_l,
        per_class=tuple(
            ClassScore(
                name=name,
                category_id=category_id,
                ap=_mean(precision[:, :, k]),
                ap50=_mean(precision[0, :, k]),
                num_objects=objects[category_id],
            )
            for k, (category_id, name) in enumerate(truth.categories)
        ),
        num_images=len(truth.image_ids),
        num_detections=num_detections,
        notes=truth.notes,
    )


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0


def _check_ids(column: NDArray[np.int64], known: Sequence[int], key: str, *, source: str, ground_truth: Path) -> None:
    unknown = sorted(set(column.tolist()) - set(known))
    if unknown:
        record = int(np.argmax(column == unknown[0]))
        raise DataError(
            f"{source}: record {record}: {key} {unknown[0]} is not in {ground_truth}, which has {_some(known)} "
            f"({len(unknown)} unknown in all); score against the file the predictions were made for"
        )


def _some(ids: Iterable[int]) -> str:
    ordered = sorted(ids)
    return ", ".join(map(str, ordered[:5])) + (", ..." if len(ordered) > 5 else "")


def _read_truth(path: Path) -> _Truth:
    tree = coco_file.read_json(path)
    images, annotations, categories = (records.table(path, tree, kind) for kind in ("image", "annotation", "category"))
    image_ids = _unique_ids(images)
    category_ids = _unique_ids(categories)
    names = records.texts(categories, "name")
    objects, notes = _objects(annotations, image_ids, category_ids)
    if not any(not annotation["iscrowd"] for annotation in objects):
        notes.append("the ground truth has no object, so every score is -1")
    return _Truth(
        image_ids=image_ids,
        categories=tuple(sorted(zip(category_ids, names, strict=True))),
        annotations=objects,
        notes=tuple(notes),
    )


def _unique_ids(rows: Table) -> list[int]:
    if not rows.rows:
        raise DataError(f"{rows.source}: lists no {rows.kind}, so nothing can be scored; export it again")
    ids = records.whole_numbers(rows, "id")[0].tolist()
    records.refuse_repeated(rows, "id", ids)
    return ids


def _objects(
    rows: Table, image_ids: Sequence[int], category_ids: Sequence[int]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Records with all that pycocotools reads, and notes on what was repaired.

    The ids are always ours, 1, 2, ...: pycocotools takes id 0 for "no match" and reads one of two annotations of equal
    id twice.
    """
    images = records.whole_numbers(rows, "image_id")[0].tolist()
    categories = records.whole_numbers(rows, "category_id")[0].tolist()
    boxes = records.boxes_xywh(rows)[0].tolist()
    crowd = records.crowd_flags(rows)[0].tolist()
    areas = [_area(rows, position, box) for position, box in enumerate(boxes)]
    known_images, known_categories = set(image_ids), set(category_ids)
    objects: list[dict[str, Any]] = []
    for position, (image, category, box, area, is_crowd) in enumerate(
        zip(images, categories, boxes, areas, crowd, strict=True)
    ):
        if category not in known_categories:
            raise rows.error(position, f"category_id {category} is none of {_some(known_categories)}; add the category")
        if min(box[2:]) < 0:
            raise rows.error(position, f"bbox {box} has a negative side; write [x, y, width, height], not two corners")
        if image in known_images:
            record = {"image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(is_crowd)}
            objects.append({"id": len(objects) + 1, **record})
    ids = [row.get("id") for row in rows.rows]
    return objects, [
        *_note(len(boxes) - len(objects), "annotations name an image that the file does not list; left out"),
        *_note(sum(row.get("area") is None for row in rows.rows), "annotations state no area; width * height taken"),
        *_note(ids.count(0) + ids.count(None), "annotations have the id 0 or none; numbered anew for scoring"),
        *_note(len(ids) - len(set(map(str, ids))), "annotations repeat the id of another; numbered anew for scoring"),
    ]


def _area(rows: Table, position: int, box: Sequence[float]) -> float:
    area = rows.rows[position].get("area")
    if area is None:
        return box[2] * box[3]
    if not is_number(area) or not math.isfinite(area):
        raise rows.error(position, f"area {area!r} must be a finite number; correct or remove it")
    return float(area)


def _note(count: int, text: str) -> list[str]:
    return [f"{count} {text}"] if count else []
