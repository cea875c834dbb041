"""Read a COCO detection file into columns, or say exactly what is wrong with it."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from detector.data import check, decode, fast_tables, json_file, records
from detector.data.columns import Columns, Finding, ReadReport, pack_names
from detector.data.records import Table, Tables
from detector.errors import DataError
from detector.types import LabelMap

_SHOWN = 8
_BLOCK = 1 << 16
_ROUNDING = 1.0  # pixels by which a box may leave its image without a word


def read_json(path: Path) -> dict[str, Any]:
    """Parse a COCO file whose tables are there and are lists of records.

    Raises:
        DataError: the file is missing, damaged, of another format, or no COCO detection file.
    """
    try:
        tree = json_file.read(path)
    except json_file.NotFiniteError as error:
        _name_not_finite(path, error)
        raise
    if not isinstance(tree, dict):
        hint = "; a list is what `eval` takes as --predictions" if isinstance(tree, list) else ""
        raise DataError(f"{path}: the top level must be an object with images, annotations and categories{hint}")
    made = cast("dict[str, Any]", tree)
    for kind in ("image", "annotation", "category"):
        records.table(path, made, kind)
    return made


def part(tree: Mapping[str, Any], rows: Iterable[int]) -> dict[str, Any]:
    """A COCO file's content with some of its images and their annotations, as they are written; ids must be sound."""
    images = [tree["images"][row] for row in rows]
    ids = {records.whole_number(image["id"]) for image in images}
    kept = [one for one in tree["annotations"] if records.whole_number(one["image_id"]) in ids]
    return {**tree, "images": images, "annotations": kept}


def _name_not_finite(path: Path, error: json_file.NotFiniteError) -> None:
    """Raise the error of the first record that holds such a number, if one does."""
    tree = json_file.read(path, is_finite=False)
    for kind in ("image", "annotation", "category") if isinstance(tree, dict) else ():
        rows = records.table(path, cast("dict[str, Any]", tree), kind)
        for position, row in enumerate(rows.rows):
            for key, value in row.items():
                if json_file.holds_not_finite(value):
                    problem = f"{key} {value!r} is not finite; correct or remove the record"
                    raise rows.error(position, problem) from error


def read_tables(path: Path) -> Tables:
    """The tables of a COCO file, unchecked beyond their form.

    Raises:
        DataError: as `read_json`.
    """
    fast = fast_tables.read(path)
    if fast is not None:
        return fast
    tree = read_json(path)
    return Tables(
        images=records.table(path, tree, "image"),
        annotations=records.table(path, tree, "annotation"),
        categories=records.table(path, tree, "category"),
    )


def read(annotations: Path, images: Path, *, label_map: LabelMap | None = None) -> Columns:
    """Check and flatten a COCO file.

    Boxes are clipped to their image; those without area, outside, or under a pixel are dropped and counted. Scoring
    needs the untouched ground truth and reads the file itself.

    Args:
        annotations: the JSON file.
        images: the folder its file names are relative to.
        label_map: of the training split; classes are then aligned to it by name. Without it they are sorted by id.

    Raises:
        DataError: a record breaks the format; the message names it.
    """
    tables = read_tables(annotations)
    if not images.is_dir():
        raise DataError(f"{images}: no such image folder; name it with --images")
    own, of_classes = _classes(tables.categories)
    aligned = own if label_map is None else check.align(annotations, own, label_map)
    table = _images(tables.images, images)
    objects = _objects(tables.annotations, table, aligned)
    columns = _assemble(annotations, images, aligned, table, objects)

    missing = check.missing_files(columns)
    counts = np.bincount(columns.labels, minlength=len(aligned))
    unused = [name for name, count in zip(aligned.names, counts.tolist(), strict=True) if not count]
    findings = (
        *of_classes,
        *table.findings,
        *objects.findings,
        check.missing_finding(columns, missing),
        Finding(what="classes without any object", count=len(unused), first=tuple(unused[:10])),
    )
    report = dataclasses.replace(
        columns.report, missing_files=len(missing), findings=tuple(finding for finding in findings if finding.count)
    )
    return dataclasses.replace(columns, report=report)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    ids: NDArray[np.int64]
    names: list[str]
    sizes_hw: NDArray[np.int64]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objects:
    """Those that are used, in the order of their images."""

    rows: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_crowd: NDArray[np.bool_]
    listed: int
    dropped: tuple[int, int, int]  # no area, outside, tiny
    clipped: int
    findings: tuple[Finding, ...]


def _classes(table: Table) -> tuple[LabelMap, tuple[Finding, ...]]:
    if not len(table):
        raise DataError(f"{table.source}: has no categories; list the classes there")
    ids, repaired = records.whole_numbers(table, "id")
    names = records.texts(table, "name")
    records.refuse_repeated(table, "id", ids.tolist())
    records.refuse_repeated(table, "name", names)
    order: list[int] = np.argsort(ids, kind="stable").tolist()
    own = LabelMap(names=tuple(names[i] for i in order), category_ids=tuple(ids[order].tolist()))
    return own, (table.finding("category ids were not written as whole numbers", repaired),)


def _images(table: Table, root: Path) -> _Images:
    if not len(table):
        raise DataError(f"{table.source}: has no images; check that it is the right file")
    ids, repaired_ids = records.whole_numbers(table, "id")
    records.refuse_repeated(table, "id", ids.tolist())
    names, repaired_names = check.file_names(table, records.texts(table, "file_name"))
    sizes_hw, repaired_sizes, unknown = records.sizes(table)
    for position in unknown:
        try:
            sizes_hw[position] = decode.image_size(root / names[position])
        except DataError as error:
            raise table.error(position, f"has no width and height, and its file cannot tell them: {error}") from error
    return _Images(
        ids=ids,
        names=names,
        sizes_hw=sizes_hw,
        findings=(
            table.finding("image ids were not written as whole numbers", repaired_ids),
            table.finding("file names had backslashes, read as slashes", repaired_names),
            table.finding("sizes were not written as whole numbers", repaired_sizes),
            table.finding("sizes were missing and taken from the image files", unknown),
            _repeated(names),
        ),
    )


def _repeated(names: Sequence[str]) -> Finding:
    repeated = [repr(name) for name, count in Counter(names).items() if count > 1]
    return Finding(what="file names stand more than once", count=len(repeated), first=tuple(repeated[:_SHOWN]))


def _objects(table: Table, images: _Images, label_map: LabelMap) -> _Objects:
    image_ids, repaired_images = records.whole_numbers(table, "image_id")
    category_ids, repaired_categories = records.whole_numbers(table, "category_id")
    xywh, repaired_boxes = records.boxes_xywh(table)
    is_crowd, repaired_crowd = records.crowd_flags(table)
    rows = check.rows_of(table, "image_id", image_ids, images.ids)
    labels = check.rows_of(table, "category_id", category_ids, np.array(label_map.category_ids, np.int64))
    check.plausible_boxes(table, xywh, images.sizes_hw[rows])
    boxes = _clip(xywh, rows, images.sizes_hw)
    kept = ~(boxes.no_area | boxes.outside | boxes.tiny)
    cut = kept & boxes.cut
    order = np.flatnonzero(kept)
    order = order[np.argsort(rows[order], kind="stable")]
    return _Objects(
        rows=rows[order],
        boxes=boxes.xyxy[order],
        labels=labels[order],
        is_crowd=is_crowd[order],
        listed=len(rows),
        dropped=(int(boxes.no_area.sum()), int(boxes.outside.sum()), int(boxes.tiny.sum())),
        clipped=int(cut.sum()),
        findings=(
            table.finding("boxes have no area, dropped", np.flatnonzero(boxes.no_area)),
            table.finding("boxes lie outside their image, dropped", np.flatnonzero(boxes.outside)),
            table.finding("boxes are under a pixel wide or high, dropped", np.flatnonzero(boxes.tiny)),
            table.finding("boxes leave their image, clipped", np.flatnonzero(cut)),
            table.finding("image_ids were not written as whole numbers", repaired_images),
            table.finding("category_ids were not written as whole numbers", repaired_categories),
            table.finding("boxes had numbers written as text", repaired_boxes),
            table.finding("crowd flags were not written as 0 or 1", repaired_crowd),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clipped:
    """Every box cut to its image, and what is wrong with it; of the first three at most one is true."""

    xyxy: NDArray[np.float32]  # [T, 4]
    no_area: NDArray[np.bool_]  # [T]
    outside: NDArray[np.bool_]  # [T]
    tiny: NDArray[np.bool_]  # [T]
    cut: NDArray[np.bool_]  # [T], by more than a rounding


def _clip(xywh: NDArray[np.float64], rows: NDArray[np.int64], sizes_hw: NDArray[np.int64]) -> _Clipped:
    """Cut the boxes block by block: the float64 corners of millions would be the peak of all memory."""
    count = len(xywh)
    no_area, outside, tiny, cut = (np.empty(count, np.bool_) for _ in range(4))
    xyxy = np.empty((count, 4), np.float32)
    for start in range(0, count, _BLOCK):
        part = slice(start, start + _BLOCK)
        sizes_wh = sizes_hw[rows[part], ::-1]
        corners, sides = xywh[part, :2], xywh[part, 2:]
        whole = np.concatenate([corners, corners + sides], axis=1)
        clipped = np.clip(whole, 0, np.concatenate([sizes_wh, sizes_wh], axis=1))
        left = clipped[:, 2:] - clipped[:, :2]
        no_area[part] = (sides == 0).any(axis=1)
        outside[part] = ~no_area[part] & (left <= 0).any(axis=1)
        tiny[part] = ~no_area[part] & ~outside[part] & (left < 1).any(axis=1)
        cut[part] = (np.abs(whole - clipped) > _ROUNDING).any(axis=1)
        xyxy[part] = clipped
    return _Clipped(xyxy=xyxy, no_area=no_area, outside=outside, tiny=tiny, cut=cut)


def _assemble(annotations: Path, root: Path, label_map: LabelMap, images: _Images, objects: _Objects) -> Columns:
    counts = np.bincount(objects.rows, minlength=len(images.ids))
    offsets = np.zeros(len(images.ids) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    name_bytes, name_offsets = pack_names(images.names)
    no_area, outside, tiny = objects.dropped
    crowd = int(objects.is_crowd.sum())
    return Columns(
        annotations=annotations,
        images=root,
        image_ids=images.ids,
        name_bytes=name_bytes,
        name_offsets=name_offsets,
        sizes_hw=images.sizes_hw.astype(np.int32),
        offsets=offsets,
        boxes=objects.boxes,
        labels=objects.labels,
        is_crowd=objects.is_crowd,
        label_map=label_map,
        report=ReadReport(
            images=len(images.ids),
            background=int((counts == 0).sum()),
            listed=objects.listed,
            objects=len(objects.labels) - crowd,
            crowd=crowd,
            dropped_no_area=no_area,
            dropped_outside=outside,
            dropped_tiny=tiny,
            clipped=objects.clipped,
            missing_files=0,
            findings=(),
        ),
    )
