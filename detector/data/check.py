"""What the records of a COCO file must be to one another and to the image folder."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.data.columns import Columns, Finding
from detector.data.records import Table
from detector.errors import DataError
from detector.types import LabelMap

_SCHEME_OR_DRIVE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:|[A-Za-z]:")
_SUSPICIOUS_SHARE = 0.2
_SHOWN = 8


def file_names(rows: Table, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names with forward slashes, all inside the image folder, and the positions that had backslashes."""
    repaired = [position for position, name in enumerate(names) if "\\" in name]
    made = [name.replace("\\", "/") for name in names]
    for position, name in enumerate(made):
        if name.startswith("/") or (":" in name and _SCHEME_OR_DRIVE.match(name)):
            raise rows.error(position, f"file_name {name!r} must be relative to the image folder, no URL; shorten it")
        if ".." in name and ".." in name.split("/"):
            raise rows.error(position, f"file_name {name!r} leaves the image folder; write it without '..'")
    return made, repaired


def rows_of(rows: Table, key: str, wanted: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of every wanted id among the known ones."""
    order = np.argsort(known, kind="stable")
    ranks = np.searchsorted(known, wanted, sorter=order)
    positions = order[np.minimum(ranks, len(known) - 1)] if len(known) else np.zeros_like(wanted)
    strange = np.flatnonzero(known[positions] != wanted) if len(known) else np.arange(len(wanted))
    if strange.size:
        first = int(strange[0])
        ids = ", ".join(str(i) for i in np.sort(known)[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
        also = f" (and {strange.size - 1} more annotations like it)" if strange.size > 1 else ""
        problem = f"{key} {wanted[first]} is unknown{also}; known: {ids}; correct it or remove the annotation"
        raise rows.error(first, problem)
    return positions


def align(source: Path, own: LabelMap, given: LabelMap) -> LabelMap:
    """The classes in the order of `given`, with the ids of this file.

    Raises:
        DataError: the two do not have the same class names.
    """
    extra = [name for name in own.names if name not in given.names]
    lacking = [name for name in given.names if name not in own.names]
    if extra or lacking:
        raise DataError(
            f"{source}: its classes differ from those of training: only here: {_listed(extra)}; "
            f"only in training: {_listed(lacking)}; give both the same category names"
        )
    ids = dict(zip(own.names, own.category_ids, strict=True))
    return LabelMap(names=given.names, category_ids=tuple(ids[name] for name in given.names))


def plausible_boxes(rows: Table, xywh: NDArray[np.float64], sizes_hw: NDArray[np.int64]) -> None:
    """Refuse negative sides, and the two usual mistakes: corners for sides, and coordinates in [0, 1]."""
    negative = np.flatnonzero((xywh[:, 2:] < 0).any(axis=1))
    if negative.size:
        first = int(negative[0])
        also = f" (and {negative.size - 1} more)" if negative.size > 1 else ""
        box = [float(side) for side in xywh[first]]
        raise rows.error(
            first, f"bbox {box} has a negative side{also}; COCO wants [x, y, width, height]: are these x1, y1, x2, y2?"
        )
    if not len(xywh):
        return
    if xywh.max() <= 1 and (xywh % 1 != 0).any() and sizes_hw.min() > 1:
        raise DataError(f"{rows.source}: no bbox exceeds 1: they look normalised; multiply them by width and height")
    sizes_wh = sizes_hw[:, ::-1]
    leaves = (xywh[:, :2] + xywh[:, 2:] > sizes_wh + 1).any(axis=1)
    corners_fit = (xywh[:, 2:] > xywh[:, :2]).all() and (xywh[:, 2:] <= sizes_wh + 1).all()
    if leaves.mean() >= _SUSPICIOUS_SHARE and corners_fit:
        first = int(np.flatnonzero(leaves)[0])
        raise rows.error(
            first,
            f"its bbox and {int(leaves.sum()) - 1} more leave the image, but all would fit as x1, y1, x2, y2; "
            "COCO wants [x, y, width, height]: convert them",
        )


def missing_files(columns: Columns) -> tuple[int, ...]:
    """Rows whose image file is not there. Folders are listed once, not asked for every file.

    Raises:
        DataError: a file or folder is a link that leads out of the image folder.
    """
    root = columns.images.resolve()
    listed: dict[str, dict[str, bool]] = {}
    missing: list[int] = []
    for row in range(len(columns)):
        folder, _, name = columns.file_name(row).rpartition("/")
        if folder not in listed:
            listed[folder] = _entries(columns, root, folder)
        is_link = listed[folder].get(name)
        if is_link is None:
            missing.append(row)
        elif is_link:
            _refuse_outside(columns, root, root / folder / name)
    return tuple(missing)


def missing_finding(columns: Columns, missing: Sequence[int]) -> Finding:
    """Raise when no image at all is there, since then the folder is wrong rather than a file lost."""
    if missing and len(missing) == len(columns):
        raise DataError(
            f"{columns.images}: holds none of the {len(columns)} images of {columns.annotations}, "
            f"not even {columns.file_name(0)!r}; name their folder with --images"
        )
    first = tuple(repr(columns.file_name(row)) for row in missing[:_SHOWN])
    return Finding(what="image files are missing", count=len(missing), first=first)


def require_objects(columns: Columns) -> None:
    """Training needs something to learn from."""
    if columns.report.objects:
        return
    found = f"{columns.report.listed} annotations, {columns.report.crowd} of them crowd regions"
    raise DataError(f"{columns.annotations}: has no object to train on ({found}); check that it is the right file")


def _entries(columns: Columns, root: Path, folder: str) -> dict[str, bool]:
    """Names in a folder of images, and whether each is a link."""
    path = root / folder
    _refuse_outside(columns, root, path)
    try:
        with os.scandir(path) as entries:
            return {entry.name: entry.is_symlink() for entry in entries}
    except OSError:
        return {}


def _refuse_outside(columns: Columns, root: Path, path: Path) -> None:
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: is a link that leads nowhere; remove it") from error
    if not target.is_relative_to(root):
        raise DataError(
            f"{columns.annotations}: image {str(path.relative_to(root))!r} is a link out of {columns.images} "
            f"(to {target}); copy the file there, or name the folder it lies in with --images"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "none"
