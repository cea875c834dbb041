"""The COCO numbers, behind checks for the input that pycocotools scores wrong in silence.

Equal scores are ranked by image id, then by the order of the results.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.data import coco as coco_file
from detector.data import records
from detector.data.columns import Columns
from detector.data.records import Table
from detector.errors import DataError
from detector.evaluate import engines, sizes
from detector.evaluate.engines import Curves, Engine, Objects
from detector.evaluate.results import Results, check_values


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Average precision of one class; -1 where the ground truth has no object of it."""

    name: str
    category_id: int
    ap: float  # mean over IoU 0.50 to 0.95
    ap50: float
    num_objects: int  # without those that are ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The twelve COCO numbers in [0, 1]; -1 where the ground truth has no object of that size.

    Small, medium and large are by the area the ground truth states: to 32**2, to 96**2, from there.
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
    num_tied: int
    """Detections with the score of another of their class, so that the order of images and results ranks them."""
    notes: tuple[str, ...]  # what was repaired or left out before scoring

    def twelve(self) -> tuple[float, ...]:
        """The numbers in the order of pycocotools' `stats`."""
        precisions = (self.ap, self.ap50, self.ap75, self.ap_small, self.ap_medium, self.ap_large)
        recalls = (self.ar_1, self.ar_10, self.ar_100, self.ar_small, self.ar_medium, self.ar_large)
        return precisions + recalls


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a number would lie 95 times in 100, had other images of the same kind been scored."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a COCO file says is there, repaired for scoring."""

    source: Path
    image_ids: NDArray[np.int64]  # ascending
    category_ids: NDArray[np.int64]  # ascending
    names: tuple[str, ...]  # of the categories
    objects: Objects
    records: NDArray[np.int64]  # place of each object in the file's list of annotations
    notes: tuple[str, ...]


def score(ground_truth: Path, results: Results | Path, *, engine: Engine = "hotcoco") -> Scores:
    """Score detections of all images of a COCO file; an image without detections counts its objects as missed.

    Args:
        ground_truth: The COCO file.
        results: Detections, or a file of them.
        engine: Who computes; the numbers are the same.

    Raises:
        DataError: a file is damaged, or a detection names an image or category the ground truth has not.
    """
    source = "predictions"
    if isinstance(results, Path):
        source = str(results)
        results = Results.read(results)
    return score_against(read_truth(ground_truth), results, source=source, engine=engine)


def score_against(truth: Truth, results: Results, *, source: str, engine: Engine = "hotcoco") -> Scores:
    """As `score`, of a ground truth that was read already."""
    found = by_row(results, truth, source=source)
    return scores_of(engines.curves(engine, truth.objects, found), truth, found)


def by_row(results: Results, truth: Truth, *, source: str = "predictions") -> Results:
    """The same detections, their images and categories as rows of the ground truth.

    Raises:
        DataError: a value would be scored wrong, or an id is not in the ground truth.
    """
    check_values(results, source=source)
    return Results(
        image_ids=_rows(results.image_ids, truth.image_ids, "image_id", source=source, ground_truth=truth.source),
        category_ids=_rows(
            results.category_ids, truth.category_ids, "category_id", source=source, ground_truth=truth.source
        ),
        boxes_xywh=results.boxes_xywh,
        scores=results.scores,
    )


def scores_of(curves: Curves, truth: Truth, found: Results) -> Scores:
    """The numbers of curves; `found` by row."""
    ap, ap50, ap75, ap_s, ap_m, ap_l, ar_1, ar_10, ar_100, ar_s, ar_m, ar_l = curves.twelve()
    precision = curves.precision[:, :, :, 0, 2]  # [IoU threshold, recall, class], at all sizes and 100 detections
    real = truth.objects.class_rows[~truth.objects.is_ignored]
    counts = np.bincount(real, minlength=len(truth.names)).tolist()
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
                category_id=int(truth.category_ids[k]),
                ap=engines.known_mean(precision[:, :, k]),
                ap50=engines.known_mean(precision[0, :, k]),
                num_objects=counts[k],
            )
            for k, name in enumerate(truth.names)
        ),
        num_images=len(truth.image_ids),
        num_detections=len(found),
        num_tied=_num_tied(found),
        notes=(*truth.notes, *_on_nothing_found(truth, found)),
    )


def _on_nothing_found(truth: Truth, found: Results) -> list[str]:
    return [] if len(found) or truth.objects.is_crowd.all() else ["there are no detections, so all scores are 0"]


def _num_tied(found: Results) -> int:
    if not len(found):
        return 0
    order = np.lexsort((found.scores, found.category_ids))
    classes, scores = found.category_ids[order], found.scores[order]
    is_as_before = np.zeros(len(found) + 1, np.bool_)
    is_as_before[1:-1] = (classes[1:] == classes[:-1]) & (scores[1:] == scores[:-1])
    return int((is_as_before[1:] | is_as_before[:-1]).sum())


def _rows(
    column: NDArray[np.int64], known: NDArray[np.int64], key: str, *, source: str, ground_truth: Path
) -> NDArray[np.int64]:
    """The place of every id among the known ones."""
    rows, is_known = _places(column, known)
    if not is_known.all():
        unknown = np.unique(column[~is_known])
        record = int(np.argmax(column == unknown[0]))
        raise DataError(
            f"{source}: record {record}: {key} {unknown[0]} is not in {ground_truth}, "
            f"which has {_some(known.tolist())} ({len(unknown)} unknown in all); "
            "score against the file the predictions were made for"
        )
    return rows


def _places(wanted: NDArray[np.int64], known: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each wanted id stands among the known ones, which ascend and are not empty, and whether it does."""
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return places, known[places] == wanted


def _some(ids: Iterable[int]) -> str:
    ordered = sorted(ids)
    return ", ".join(map(str, ordered[:5])) + (", ..." if len(ordered) > 5 else "")


def read_truth(path: Path) -> Truth:
    """Read a COCO file for scoring.

    Raises:
        DataError: it is damaged, or holds a record that would be scored wrong.
    """
    tables = coco_file.read_tables(path)
    image_ids = _unique_ids(tables.images)
    category_ids = category_ids_as_written = _unique_ids(tables.categories)
    names = records.texts(tables.categories, "name")
    order: list[int] = np.argsort(category_ids).tolist()
    image_ids, category_ids = np.sort(image_ids), category_ids[order]
    objects, places, notes = _objects(tables.annotations, image_ids, category_ids)
    notes[:0] = _on_equal_names(names, category_ids_as_written)
    if objects.is_ignored.all():
        notes.append("the ground truth has no object, so no score is defined; check that it is the right file")
    return Truth(
        source=path,
        image_ids=image_ids,
        category_ids=category_ids,
        names=tuple(names[place] for place in order),
        objects=objects,
        records=places,
        notes=tuple(notes),
    )


def truth_of(columns: Columns) -> Truth:
    """Columns as a truth: their boxes are clipped to the images, and areas are those of the boxes."""
    image_ids = np.sort(columns.image_ids)
    category_ids = np.array(columns.label_map.category_ids, np.int64)
    order: list[int] = np.argsort(category_ids).tolist()
    boxes = columns.boxes.astype(np.float64)
    boxes_xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
    rows_of_images = np.searchsorted(image_ids, columns.image_ids)
    return Truth(
        source=columns.annotations,
        image_ids=image_ids,
        category_ids=category_ids[order],
        names=tuple(columns.label_map.names[place] for place in order),
        objects=Objects(
            num_images=len(image_ids),
            num_classes=len(category_ids),
            image_rows=np.repeat(rows_of_images, np.diff(columns.offsets)),
            class_rows=np.argsort(order)[columns.labels],
            boxes_xywh=boxes_xywh,
            areas=boxes_xywh[:, 2:].prod(axis=1),
            is_crowd=columns.is_crowd,
        ),
        records=np.arange(len(columns.labels)),
        notes=(),
    )


def _unique_ids(rows: Table) -> NDArray[np.int64]:
    if not len(rows):
        raise DataError(f"{rows.source}: lists no {rows.kind}, so nothing can be scored; export it again")
    ids = records.whole_numbers(rows, "id")[0]
    records.refuse_repeated(rows, "id", ids.tolist())
    return ids


def _objects(
    rows: Table, image_ids: NDArray[np.int64], category_ids: NDArray[np.int64]
) -> tuple[Objects, NDArray[np.int64], list[str]]:
    """What the engines are given, where each object stands in the file, and notes on what was repaired."""
    images, in_file = _places(records.whole_numbers(rows, "image_id")[0], image_ids)
    wanted = records.whole_numbers(rows, "category_id")[0]
    classes, has_class = _places(wanted, category_ids)
    boxes = records.boxes_xywh(rows)[0]
    is_crowd = records.crowd_flags(rows)[0]
    areas = records.areas(rows)
    _refuse_first(rows, wanted, has_class, boxes, category_ids)
    without_area, below_zero = np.isnan(areas), areas < 0
    areas = np.where(without_area | below_zero, boxes[:, 2] * boxes[:, 3], areas)
    objects = Objects(
        num_images=len(image_ids),
        num_classes=len(category_ids),
        image_rows=images[in_file],
        class_rows=classes[in_file],
        boxes_xywh=boxes[in_file],
        areas=areas[in_file],
        is_crowd=is_crowd[in_file],
    )
    without_id, repeated = records.repeated_ids(rows)
    notes = [
        *_note(int((~in_file).sum()), "annotations name an image that the file does not list; left out"),
        *_note(int(without_area.sum()), "annotations state no area; width * height taken"),
        *_note(int(below_zero.sum()), "annotations state an area below zero; width * height taken"),
        *_note(
            int((objects.areas > sizes.MOST).sum()),
            f"annotations have an area above {sizes.MOST:g}, which no score counts; ignored",
        ),
        *_note(without_id, "annotations have the id 0 or none; numbered anew for scoring"),
        *_note(repeated, "annotations repeat the id of another; numbered anew for scoring"),
    ]
    return objects, np.flatnonzero(in_file), notes


def _refuse_first(
    rows: Table,
    wanted: NDArray[np.int64],
    has_class: NDArray[np.bool_],
    boxes: NDArray[np.float64],
    category_ids: NDArray[np.int64],
) -> None:
    """Raise for the first record of an unknown category, or with a side below zero."""
    wrong = np.flatnonzero(~has_class | (boxes[:, 2:] < 0).any(axis=1))
    if not wrong.size:
        return
    first = int(wrong[0])
    if not has_class[first]:
        known = _some(category_ids.tolist())
        raise rows.error(first, f"category_id {wanted[first]} is none of {known}; add the category")
    box = boxes[first].tolist()
    raise rows.error(first, f"bbox {box} has a negative side; write [x, y, width, height], not two corners")


def _on_equal_names(names: Sequence[str], category_ids: NDArray[np.int64]) -> list[str]:
    """The scores are right, but nobody can tell them apart; a model, which goes by names, is refused such a file."""
    ids: dict[str, list[int]] = {}
    for name, number in zip(names, category_ids.tolist(), strict=True):
        ids.setdefault(name, []).append(number)
    return [
        f"{len(same)} categories are named {name!r}; scored as different ones, with the ids "
        f"{', '.join(map(str, sorted(same)))}"
        for name, same in ids.items()
        if len(same) > 1
    ]


def _note(count: int, text: str) -> list[str]:
    return [f"{count} {text}"] if count else []
