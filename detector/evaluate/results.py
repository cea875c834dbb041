"""Detections of a whole data set in COCO's results form, and the file that holds them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from detector import files
from detector.data import fast_tables, json_file
from detector.errors import DataError

_KEYS: Final = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Flat columns, one row a detection. The order of rows decides between equal scores of one image."""

    image_ids: NDArray[np.int64]  # [K]
    category_ids: NDArray[np.int64]  # [K], ids of the ground-truth file
    boxes_xywh: NDArray[np.float64]  # [K, 4] pixels of the original image
    scores: NDArray[np.float64]  # [K], in [0, 1]

    def __post_init__(self) -> None:
        count = len(self.scores)
        shapes = (self.image_ids.shape, self.category_ids.shape, self.boxes_xywh.shape, self.scores.shape)
        if shapes != ((count,), (count,), (count, 4), (count,)):
            raise ValueError(f"columns of {count} detections have the shapes {shapes}")

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco_json(self) -> list[dict[str, Any]]:
        """Records as COCO writes them, of plain Python numbers."""
        columns = (self.image_ids, self.category_ids, self.boxes_xywh, self.scores)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [dict(zip(_KEYS, row, strict=True)) for row in rows]

    def write(self, path: Path) -> None:
        """Write so that `read` gives exactly the same numbers; the file appears whole or not at all."""
        lines = ",\n".join(json.dumps(record, allow_nan=False) for record in self.to_coco_json())
        files.write_text(path, f"[\n{lines}\n]\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a results file of any tool.

        Raises:
            DataError: the file is no list of detections, or a record has a value that would be scored wrong.
        """
        return cls.read_named(path)[0]

    @classmethod
    def read_named(cls, path: Path) -> tuple[Self, list[str | None]]:
        """As `read`, and the file name of each record; None for one without."""
        fast = fast_tables.read_detections(path)
        if fast is not None:
            results = cls(
                image_ids=fast.image_ids,
                category_ids=fast.category_ids,
                boxes_xywh=fast.boxes_xywh,
                scores=fast.scores,
            )
            check_values(results, source=str(path))
            return results, fast.file_names
        content = _content(path)
        if not isinstance(content, list):
            raise DataError(
                f"{path}: is {_kind(content)}, but a results file is a list of "
                "{image_id, category_id, bbox, score}; give the predictions, not the ground truth"
            )
        records = cast("list[Any]", content)
        for index, record in enumerate(records):
            _check_record(record, where=f"{path}: record {index}")
        results = cls(
            image_ids=np.array([record["image_id"] for record in records], dtype=np.int64),
            category_ids=np.array([record["category_id"] for record in records], dtype=np.int64),
            boxes_xywh=np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4),
            scores=np.array([record["score"] for record in records], dtype=np.float64),
        )
        check_values(results, source=str(path))
        names = [record.get("file_name") for record in records]
        return results, [name if isinstance(name, str) else None for name in names]


def check_values(results: Results, *, source: str) -> None:
    """Refuse what pycocotools accepts and scores wrong.

    There a box of NaN matches every object, a box with one negative side is no false positive, and a score of NaN
    takes a place in the ranking.

    Raises:
        DataError: naming the first such record.
    """
    boxes, scores = results.boxes_xywh, results.scores
    rules = (
        (np.isfinite(boxes).all(axis=1), boxes, "box {} is not finite; correct or remove the record"),
        (
            (boxes[:, 2:] >= 0).all(axis=1),
            boxes,
            "box {} has a negative side; write [x, y, width, height], not two corners",
        ),
        (np.isfinite(scores), scores, "score {} is not finite; correct or remove the record"),
        ((scores >= 0) & (scores <= 1), scores, "score {} is not between 0 and 1; write a probability"),
    )
    for is_good, values, text in rules:
        if not is_good.all():
            index = int(np.argmin(is_good))
            raise DataError(f"{source}: record {index}: {text.format(values[index].tolist())}")


def _content(path: Path) -> Any:
    try:
        return json_file.read(path)
    except json_file.NotFiniteError as error:
        content = json_file.read(path, is_finite=False)
        for index, record in enumerate(cast("list[Any]", content) if isinstance(content, list) else []):
            for key, value in cast("dict[str, Any]", record).items() if isinstance(record, dict) else ():
                if json_file.holds_not_finite(value):
                    where = f"{path}: record {index}: {key} {value!r}"
                    raise DataError(f"{where} is not finite; correct or remove the record") from error
        raise


def _check_record(record: Any, *, where: str) -> None:
    if not isinstance(record, dict):
        raise DataError(f"{where}: is {_kind(record)}, must be an object with {', '.join(_KEYS)}")
    entry = cast("dict[str, Any]", record)
    missing = [key for key in _KEYS if key not in entry]
    if missing:
        raise DataError(f"{where}: lacks {', '.join(missing)}; a detection has {', '.join(_KEYS)}")
    for key in ("image_id", "category_id"):
        value = entry[key]
        if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
            raise DataError(f"{where}: {key} {value!r} must be a whole number, as in the ground truth")
    if not _is_four_numbers(entry["bbox"]):
        raise DataError(f"{where}: bbox {entry['bbox']!r} must be four numbers [x, y, width, height]")
    if not _is_number(entry["score"]):
        raise DataError(f"{where}: score {entry['score']!r} must be a number between 0 and 1")


def _is_number(value: Any) -> bool:
    """Whether JSON's `value` is a number that float64 holds; infinity and NaN count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_four_numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    sides = cast("list[Any]", value)
    return len(sides) == 4 and all(map(_is_number, sides))


def _kind(value: Any) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case None:
            return "null"
        case _:
            return f"the {type(value).__name__} {str(value)[:40]!r}"
