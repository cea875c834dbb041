"""The tables of a well-formed COCO or results file as columns, some times faster than record by record.

A file that needs a repair, or an error, is declined with None: `json_file` and `records` then read it once more, with
care, and say what is wrong with it. What a record holds besides the known keys is checked to be JSON and not looked at.
"""

import stat
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.data import json_file
from detector.data.json_stream import Declined, Window
from detector.data.records import ColumnTable, Kind, Tables, is_plain_name

_LARGEST_BOX = 1e9
_LARGEST_SIDE = 2**31
_DECLINED = (Declined, msgspec.MsgspecError, OSError, ValueError, OverflowError, RecursionError)

Row = TypeVar("Row")


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    area: float | None = None


class _Detection(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float
    file_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionColumns:
    """The columns of a results file, of the right kinds; their values are not judged."""

    image_ids: NDArray[np.int64]  # [K]
    category_ids: NDArray[np.int64]  # [K]
    boxes_xywh: NDArray[np.float64]  # [K, 4]
    scores: NDArray[np.float64]  # [K]
    file_names: list[str | None]  # [K]


def read(path: Path) -> Tables | None:
    """The tables of a COCO file, or None for the careful reader."""
    return _or_none(path, lambda window: _coco(path, window))


def read_detections(path: Path) -> DetectionColumns | None:
    """The columns of a results file, or None for the careful reader."""
    return _or_none(path, _detections)


def _or_none(path: Path, parse: Callable[[Window], Row]) -> Row | None:
    try:
        with ExitStack() as stack:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > json_file.MAX_BYTES:
                return None
            window = Window(stack.enter_context(path.open("rb")))
            stack.enter_context(json_file.collector_paused())
            made = parse(window)
            return made if not window.next_byte() else None
    except _DECLINED:
        return None


def _coco(path: Path, window: Window) -> Tables:
    makers: dict[str, Callable[[], ColumnTable]] = {
        "images": lambda: _images(path, window),
        "annotations": lambda: _annotations(path, window),
        "categories": lambda: _categories(path, window),
    }
    made: dict[str, ColumnTable] = {}
    window.take(b"{")
    more = not window.took(b"}")
    while more:
        key = window.key()
        if key in made:
            raise Declined
        if key in makers:
            made[key] = makers[key]()
        else:
            window.skip_small_value()
        more = window.took(b",")
        if not more:
            window.take(b"}")
    if made.keys() != makers.keys():
        raise Declined
    return Tables(images=made["images"], annotations=made["annotations"], categories=made["categories"])


class _Growing:
    """A column of unknown length. It grows in place: two copies of a long one would be its largest cost."""

    def __init__(self, kind: type[np.generic]) -> None:
        self._data: NDArray[Any] = np.empty(0, kind)
        self._used = 0

    def add(self, values: Iterable[Any], count: int) -> NDArray[Any]:
        """Append so many values, and return the part of the column that they are now."""
        end = self._used + count
        if end > len(self._data):
            self._data.resize(end + end // 4, refcheck=False)
        self._data[self._used : end] = np.fromiter(values, self._data.dtype, count)
        part = self._data[self._used : end]
        self._used = end
        return part

    def all(self) -> NDArray[Any]:
        self._data.resize(self._used, refcheck=False)
        return self._data


class _Rows(Generic[Row]):
    """Pieces of a table as rows."""

    def __init__(self, window: Window, form: type[Row]) -> None:
        self._window = window
        self._decoder = msgspec.json.Decoder(list[form])

    def each(self, add: Callable[[list[Row]], None]) -> None:
        for piece in self._window.pieces():
            add(self._decoder.decode(piece))


def _images(path: Path, window: Window) -> ColumnTable:
    ids, sides, names = _Growing(np.int64), _Growing(np.int64), list[str]()

    def add(rows: list[_Image]) -> None:
        ids.add(map(attrgetter("id"), rows), len(rows))
        sizes = sides.add(chain.from_iterable(map(attrgetter("height", "width"), rows)), 2 * len(rows))
        _require(not len(sizes) or (sizes.min() > 0 and sizes.max() < _LARGEST_SIDE))
        names.extend(row.file_name for row in rows)

    _Rows(window, _Image).each(add)
    return _table(path, "image", {"id": ids.all(), "size_hw": sides.all().reshape(-1, 2)}, names)


def _categories(path: Path, window: Window) -> ColumnTable:
    ids, names = _Growing(np.int64), list[str]()

    def add(rows: list[_Category]) -> None:
        ids.add(map(attrgetter("id"), rows), len(rows))
        names.extend(row.name for row in rows)

    _Rows(window, _Category).each(add)
    return _table(path, "category", {"id": ids.all()}, names)


def _annotations(path: Path, window: Window) -> ColumnTable:
    numbers = {key: _Growing(np.int64) for key in ("id", "image_id", "category_id")}
    sides, areas, crowd = _Growing(np.float64), _Growing(np.float64), _Growing(np.int8)

    def add(rows: list[_Annotation]) -> None:
        count = len(rows)
        for key, column in numbers.items():
            column.add(map(attrgetter(key), rows), count)
        boxes = sides.add(chain.from_iterable(map(attrgetter("bbox"), rows)), 4 * count)
        _require(not count or (boxes.min() > -_LARGEST_BOX and boxes.max() < _LARGEST_BOX))
        areas.add(map(attrgetter("area"), rows), count)  # None becomes NaN
        flags = crowd.add(map(attrgetter("iscrowd"), rows), count)
        _require(not count or (flags.min() >= 0 and flags.max() <= 1))

    _Rows(window, _Annotation).each(add)
    columns = {key: column.all() for key, column in numbers.items()}
    columns |= {"bbox": sides.all().reshape(-1, 4), "area": areas.all(), "iscrowd": crowd.all().view(np.bool_)}
    return _table(path, "annotation", columns, [])


def _detections(window: Window) -> DetectionColumns:
    image_ids, category_ids = _Growing(np.int64), _Growing(np.int64)
    sides, scores = _Growing(np.float64), _Growing(np.float64)
    names: list[str | None] = []
    once: dict[str | None, str | None] = {}  # one string an image, not one a detection

    def add(rows: list[_Detection]) -> None:
        count = len(rows)
        image_ids.add(map(attrgetter("image_id"), rows), count)
        category_ids.add(map(attrgetter("category_id"), rows), count)
        sides.add(chain.from_iterable(map(attrgetter("bbox"), rows)), 4 * count)
        scores.add(map(attrgetter("score"), rows), count)
        names.extend(once.setdefault(row.file_name, row.file_name) for row in rows)

    _Rows(window, _Detection).each(add)
    return DetectionColumns(
        image_ids=image_ids.all(),
        category_ids=category_ids.all(),
        boxes_xywh=sides.all().reshape(-1, 4),
        scores=scores.all(),
        file_names=names,
    )


def _table(path: Path, kind: Kind, columns: dict[str, NDArray[Any]], names: list[str]) -> ColumnTable:
    _require(all(map(is_plain_name, names)))
    return ColumnTable(source=path, kind=kind, columns=columns, names=names)


def _require(condition: bool | np.bool_) -> None:
    if not condition:
        raise Declined
