"""Generated COCO files of any size, with sparse ids, crowds, many sizes of boxes and equal scores."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

NUM_CLASSES = 80
_SIZE_WH = (640, 480)
_CORNERS = 20  # of a polygon; COCO has some more in the mean
_ABOUT_AN_OBJECT = 0.6  # share of detections that are near one


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What was written; rows count from 0."""

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    image_rows: NDArray[np.int64]  # [T]
    classes: NDArray[np.int64]  # [T]
    boxes_xywh: NDArray[np.float64]  # [T, 4]


def write_truth(path: Path, *, num_images: int, num_objects: int, polygons: bool = False, seed: int = 0) -> Truth:
    """Write a file as COCO's own: its order of keys, coordinates of two digits."""
    rng = np.random.default_rng(seed)
    truth = Truth(
        image_ids=rng.permutation(5 * num_images)[:num_images] + 1,
        category_ids=np.sort(rng.permutation(NUM_CLASSES + 10)[:NUM_CLASSES]) + 1,
        image_rows=rng.integers(num_images, size=num_objects),
        classes=rng.integers(NUM_CLASSES, size=num_objects),
        boxes_xywh=_boxes(rng, num_objects),
    )
    images = (
        f'{{"license": 1, "file_name": "{row:012d}.jpg", "coco_url": "http://images.example.org/{row:012d}.jpg", '
        f'"height": {_SIZE_WH[1]}, "width": {_SIZE_WH[0]}, "date_captured": "2013-11-14 11:18:45", "id": {image_id}}}'
        for row, image_id in enumerate(truth.image_ids.tolist())
    )
    categories = (
        f'{{"supercategory": "thing", "id": {category_id}, "name": "class {row}"}}'
        for row, category_id in enumerate(truth.category_ids.tolist())
    )
    with path.open("w", encoding="utf-8") as file:
        file.writelines(
            chain(
                ['{"info": {"description": "generated"}, "licenses": [], "images": ['],
                _joined(images),
                ['], "annotations": ['],
                _joined(_annotations(rng, truth, polygons=polygons)),
                ['], "categories": ['],
                _joined(categories),
                ["]}"],
            )
        )
    return truth


def write_detections(path: Path, truth: Truth, *, num_detections: int, seed: int = 1) -> None:
    """Write results, part of them near objects, some of those of the wrong class; scores of three digits."""
    rng = np.random.default_rng(seed)
    count = num_detections
    near = (rng.random(count) < _ABOUT_AN_OBJECT) & (len(truth.classes) > 0)
    objects = rng.integers(max(len(truth.classes), 1), size=count)
    images = rng.integers(len(truth.image_ids), size=count)
    classes = rng.integers(NUM_CLASSES, size=count)
    boxes = _boxes(rng, count)
    images[near] = truth.image_rows[objects[near]]
    right = near & (rng.random(count) < 0.8)
    classes[right] = truth.classes[objects[right]]
    like = truth.boxes_xywh[objects[near]]
    moved = like + rng.normal(0, 0.08, like.shape) * np.tile(like[:, 2:], 2)
    boxes[near] = np.round(np.concatenate([moved[:, :2], np.maximum(moved[:, 2:], 1)], axis=1), 2)
    scores = np.round(rng.beta(1, 4, count) * np.where(right, 1.0, 0.6), 3)
    rows = zip(
        truth.image_ids[images].tolist(),
        truth.category_ids[classes].tolist(),
        boxes.tolist(),
        scores.tolist(),
        strict=True,
    )
    lines = (
        f'{{"image_id": {image}, "category_id": {category}, "bbox": {box}, "score": {score}}}'
        for image, category, box, score in rows
    )
    with path.open("w", encoding="utf-8") as file:
        file.writelines(chain(["["], _joined(lines), ["]"]))


def _boxes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Inside the image; sides from 4 pixels to half of it, evenly on a logarithmic scale."""
    size = np.array(_SIZE_WH)
    sides = np.round(4 * (size / 8) ** rng.random((count, 2)), 2)
    corners = np.floor(rng.random((count, 2)) * (size - sides) * 100) / 100
    return np.concatenate([corners, sides], axis=1)


def _annotations(rng: np.random.Generator, truth: Truth, *, polygons: bool) -> Iterator[str]:
    crowd = (rng.random(len(truth.classes)) < 0.01).astype(int)
    areas = np.round(truth.boxes_xywh[:, 2] * truth.boxes_xywh[:, 3] * 0.6, 3)
    rows = zip(
        crowd.tolist(),
        areas.tolist(),
        truth.image_ids[truth.image_rows].tolist(),
        truth.boxes_xywh.tolist(),
        truth.category_ids[truth.classes].tolist(),
        strict=True,
    )
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    for number, (is_crowd, area, image, box, category) in enumerate(rows, start=1):
        segmentation = ""
        if polygons:
            outline = cast("list[float]", np.round(circle * box[2:] + box[:2], 2).ravel().tolist())
            segmentation = f'"segmentation": [{outline}], '
        yield (
            f'{{{segmentation}"area": {area}, "iscrowd": {is_crowd}, "image_id": {image}, "bbox": {box}, '
            f'"category_id": {category}, "id": {number}}}'
        )


def _joined(lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line if number == 0 else f", {line}"
