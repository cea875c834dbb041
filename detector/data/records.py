"""One column of a table of JSON records as a numpy array.

The whole column is checked at once; single records are looked at only when that fails, to repair or to name one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from detector.data.columns import Finding
from detector.errors import DataError

_FIRST = 10
_LARGEST = 1e9
_Record = dict[str, Any]


Kind = Literal["image", "annotation", "category"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table(ABC):
    """The records of one kind, and the file they come from."""

    source: Path
    kind: Kind

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, position: int) -> str:
        """A record as an error names it: by its id where it has one."""

    def error(self, position: int, problem: str) -> DataError:
        return DataError(f"{self.source}: {self.name(position)}: {problem}")

    def finding(self, what: str, positions: Sequence[int] | NDArray[np.int64]) -> Finding:
        return Finding(what=what, count=len(positions), first=tuple(self.name(int(p)) for p in positions[:_FIRST]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTable(_Table):
    """Records as they stand in the file, of whatever values."""

    rows: list[_Record]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, position: int) -> str:
        record_id = self.rows[position].get("id")
        return f"{self.kind} {record_id!r}" if record_id is not None else f"{self.kind} at position {position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnTable(_Table):
    """Records that need no repair, by key; `names` is the only key of texts.

    Every value is what the functions below would make of the records, and these functions hand it out.
    """

    columns: Mapping[str, NDArray[Any]]
    names: list[str]

    def __len__(self) -> int:
        return len(self.columns["id"])

    def name(self, position: int) -> str:
        return f"{self.kind} {int(self.columns['id'][position])}"


Table = RecordTable | ColumnTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What stands in a COCO file."""

    images: Table
    annotations: Table
    categories: Table


def table(source: Path, tree: _Record, kind: Kind) -> RecordTable:
    """The list of records under its COCO key."""
    key = {"image": "images", "annotation": "annotations", "category": "categories"}[kind]
    if key not in tree:
        raise DataError(f"{source}: has no {key!r}; is it a COCO detection file? It has: {_keys(tree)}")
    if not isinstance(tree[key], list):
        raise DataError(f"{source}: {key!r} must be a list of records, found {_kind(tree[key])}; export it again")
    rows: list[Any] = tree[key]
    if set(map(type, rows)) - {dict}:
        position, row = next((p, row) for p, row in enumerate(rows) if not isinstance(row, dict))
        raise DataError(f"{source}: {key!r}: entry {position} must be a record, found {_kind(row)}; correct it")
    return RecordTable(source=source, kind=kind, rows=rows)


def whole_numbers(rows: Table, key: str) -> tuple[NDArray[np.int64], list[int]]:
    """A column of ids, and the positions where a string or a float had to be read as one."""
    if isinstance(rows, ColumnTable):
        return rows.columns[key], []
    values: list[Any] = [row.get(key) for row in rows.rows]
    repaired: list[int] = []
    if set(map(type, values)) - {int}:
        for position, value in enumerate(values):
            if type(value) is not int:
                values[position] = _whole(rows, position, key, value)
                repaired.append(position)
    try:
        return np.array(values, np.int64).reshape(-1), repaired
    except OverflowError:
        position = next(p for p, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise rows.error(position, f"{key} {values[position]} needs more than 64 bits; renumber it") from None


def _whole(rows: RecordTable, position: int, key: str, value: object) -> int:
    number = whole_number(value)
    if number is None:
        raise rows.error(position, f"{key} must be a whole number, found {_kind(value)}; correct it")
    return number


def whole_number(value: object) -> int | None:
    """An id, which some files write as text or with a point; None where it is none."""
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def sizes(rows: Table) -> tuple[NDArray[np.int64], list[int], list[int]]:
    """Heights and widths [I, 2] with zero for an unknown one, and the positions repaired and unknown."""
    if isinstance(rows, ColumnTable):
        return rows.columns["size_hw"], [], []
    pairs: list[tuple[Any, Any]] = [(row.get("height"), row.get("width")) for row in rows.rows]
    repaired: list[int] = []
    unknown: list[int] = []
    if {type(side) for pair in pairs for side in pair} - {int} or any(
        min(pair) <= 0 or max(pair) >= 2**31 for pair in pairs
    ):
        for position, pair in enumerate(pairs):
            sides = [_side(rows, position, value) for value in pair]
            if min(sides) == 0:
                unknown.append(position)
            elif any(type(value) is not int for value in pair):
                repaired.append(position)
            pairs[position] = (0, 0) if min(sides) == 0 else (sides[0], sides[1])
    return np.array(pairs, np.int64).reshape(-1, 2), repaired, unknown


def _side(rows: RecordTable, position: int, value: object) -> int:
    if value is None:
        return 0
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not number.is_integer() or number >= 2**31:
        raise rows.error(position, f"width and height must be whole numbers of pixels, found {_kind(value)}")
    return max(int(number), 0)


def boxes_xywh(rows: Table) -> tuple[NDArray[np.float64], list[int]]:
    """The `bbox` column [T, 4], and the positions whose numbers were written as strings."""
    if isinstance(rows, ColumnTable):
        return rows.columns["bbox"], []
    values: list[Any] = [row.get("bbox") for row in rows.rows]
    repaired: list[int] = []
    if not _are_plain_boxes(values):
        for position, value in enumerate(values):
            values[position], changed = _box(rows, position, value)
            repaired += [position] if changed else []
    boxes = np.array(values, np.float64).reshape(-1, 4)
    wild = np.flatnonzero(~(np.abs(boxes) < _LARGEST).all(axis=1))
    if wild.size:
        box = ", ".join(f"{side:.6g}" for side in boxes[wild[0]].tolist())
        raise rows.error(int(wild[0]), f"bbox [{box}] is not finite or absurdly large; correct it")
    return boxes, repaired


def _are_plain_boxes(values: list[Any]) -> bool:
    """Lists of four numbers each, all of which a float can hold."""
    if set(map(type, values)) - {list} or set(map(len, values)) - {4}:
        return False
    sides = list(chain.from_iterable(values))
    return (
        not set(map(type, sides)) - {int, float}
        and -_LARGEST < min(sides, default=0) <= max(sides, default=0) < _LARGEST
    )


def _box(rows: RecordTable, position: int, value: Any) -> tuple[list[float], bool]:
    if not isinstance(value, list) or len(cast("list[Any]", value)) != 4:
        raise rows.error(
            position, f"bbox must be [x, y, width, height], found {_kind(cast('object', value))}; correct or remove it"
        )
    sides = cast("list[Any]", value)
    return [_number(rows, position, side) for side in sides], any(type(side) is str for side in sides)


def _number(rows: RecordTable, position: int, side: object) -> float:
    if isinstance(side, int | float | str) and not isinstance(side, bool):
        try:
            return float(side)
        except ValueError:
            pass
        except OverflowError:
            return math.inf
    raise rows.error(position, f"bbox holds {_kind(side)} where a number must stand; correct it")


def crowd_flags(rows: Table) -> tuple[NDArray[np.bool_], list[int]]:
    """The `iscrowd` column, missing meaning 0, and the positions where a true or false stood."""
    if isinstance(rows, ColumnTable):
        return rows.columns["iscrowd"], []
    values = [row.get("iscrowd", 0) for row in rows.rows]
    kinds = set(map(type, values))
    repaired: list[int] = []
    if kinds - {int} or set(values) - {0, 1}:
        for position, value in enumerate(values):
            if value is None or isinstance(value, bool):
                repaired.append(position)
            elif type(value) is not int or value not in (0, 1):
                raise rows.error(position, f"iscrowd must be 0 or 1, found {_kind(value)}; correct it")
    return np.array([bool(value) for value in values], np.bool_), repaired


def texts(rows: Table, key: str) -> list[str]:
    """A column of names that can be written as UTF-8; empty ones are refused."""
    if isinstance(rows, ColumnTable):
        return rows.names
    values = [row.get(key) for row in rows.rows]
    for position, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise rows.error(position, f"{key} must be a name, found {_kind(value)}; correct it")
        if not is_plain_name(value):
            raise rows.error(position, f"{key} {value!r} holds a character that no name may have; correct it")
    return [value for value in values if isinstance(value, str)]


def is_plain_name(text: str) -> bool:
    """Whether it can be a name in a file: neither empty nor with a character that UTF-8 or a path cannot hold."""
    return bool(text.strip()) and "\0" not in text and _is_utf8(text)


def areas(rows: Table) -> NDArray[np.float64]:
    """The `area` column, NaN where a record states none."""
    if isinstance(rows, ColumnTable):
        return rows.columns["area"]
    values = [row.get("area") for row in rows.rows]
    for position, value in enumerate(values):
        if value is not None and not _is_finite(value):
            raise rows.error(position, f"area {value!r} must be a finite number; correct or remove it")
    return np.array([math.nan if value is None else float(value) for value in values], np.float64)


def repeated_ids(rows: Table) -> tuple[int, int]:
    """How many records have the id 0 or none, and how many of the others the id of an earlier one."""
    if isinstance(rows, ColumnTable):
        ids = rows.columns["id"]
        others = ids[ids != 0]
        return len(ids) - len(others), len(others) - len(np.unique(others))
    values = [row.get("id") for row in rows.rows]
    with_id = [str(value) for value in values if value not in (0, None)]
    return len(values) - len(with_id), len(with_id) - len(set(with_id))


def refuse_repeated(rows: Table, key: str, values: Sequence[Hashable]) -> None:
    """Ids and names that must be unique."""
    if len(set(values)) == len(values):
        return
    first: dict[Hashable, int] = {}
    for position, value in enumerate(values):
        if value in first:
            where = f"positions {first[value]} and {position}"
            raise DataError(f"{rows.source}: {rows.kind} {key} {value!r} stands twice, at {where}; make it unique")
        first[value] = position


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        return False
    return True


def _keys(tree: _Record) -> str:
    return ", ".join(sorted(map(repr, tree))[:8]) or "nothing"


def _kind(value: object) -> str:
    """A short description of a wrong value."""
    text = repr(value)
    if value is None:
        return "null or nothing"
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."
