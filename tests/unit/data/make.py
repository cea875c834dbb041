"""Small COCO files, images and columns for the tests of `detector.data`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detector.data.columns import Columns, ReadReport, pack_names
from detector.types import LabelMap

Tree = dict[str, Any]
_NOTHING = ReadReport(
    images=0, background=0, listed=0, objects=0, crowd=0, dropped_no_area=0, dropped_outside=0, dropped_tiny=0,
    clipped=0, missing_files=0, findings=(),
)  # fmt: skip


def picture(path: Path, size_hw: tuple[int, int] = (40, 60), seed: int = 0, **save: Any) -> Path:
    """A smooth picture without symmetry, in the format the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(size_hw, seed)).save(path, **save)
    return path


def pixels(size_hw: tuple[int, int] = (40, 60), seed: int = 0) -> np.ndarray:
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + 2 * y + 37 * seed) % 256]
    return np.stack(planes, axis=-1).astype(np.uint8)


def image(image_id: Any = 1, name: Any = "a.png", size_hw: tuple[int, int] = (40, 60)) -> Tree:
    return {"id": image_id, "file_name": name, "width": size_hw[1], "height": size_hw[0]}


def annotation(annotation_id: Any = 1, **fields: Any) -> Tree:
    made = {"id": annotation_id, "image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 10], "area": 200, "iscrowd": 0}
    return {**made, **fields}


def tree(**tables: Any) -> Tree:
    made = {"images": [image()], "annotations": [annotation()], "categories": [{"id": 1, "name": "cat"}]}
    return {**made, **tables}


def write(folder: Path, content: Any, name: str = "train.json") -> tuple[Path, Path]:
    """The JSON file, and an image folder that holds `a.png` at least."""
    images = folder / "images"
    if not (images / "a.png").exists():
        picture(images / "a.png")
    (folder / name).write_text(json.dumps(content))
    return folder / name, images


def dataset(folder: Path, count: int, *, objects: int = 2) -> tuple[Path, Path]:
    """`count` readable JPEG images of differing sizes with `objects` boxes each."""
    images, annotations = [], []
    for i in range(count):
        size_hw = (40 + i % 3, 60 - i % 4)
        picture(folder / "images" / f"{i}.jpg", size_hw, seed=i, quality=95)
        images.append(image(100 + i, f"{i}.jpg", size_hw))
        for k in range(objects):
            box = [3 + i % 5 + 7 * k, 4 + k, 15 + k, 12]
            annotations.append(annotation(len(annotations) + 1, image_id=100 + i, bbox=box, category_id=1 + k % 2))
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return write(folder, tree(images=images, annotations=annotations, categories=categories))


def columns(
    labels: Sequence[Sequence[int]],
    *,
    boxes: Sequence[Sequence[float]] | None = None,
    sizes_hw: Sequence[tuple[int, int]] | None = None,
    crowd: Sequence[bool] | None = None,
) -> Columns:
    """A split in memory: the labels of each image; boxes and crowd flags of all objects."""
    flat = [label for of_image in labels for label in of_image]
    count = len(labels)
    names, name_offsets = pack_names([f"{i}.png" for i in range(count)])
    num_classes = max(flat, default=0) + 1
    return Columns(
        annotations=Path("a.json"),
        images=Path("images"),
        image_ids=np.arange(count),
        name_bytes=names,
        name_offsets=name_offsets,
        sizes_hw=np.array(sizes_hw or [(480, 640)] * count, np.int32),
        offsets=np.cumsum([0, *(len(of_image) for of_image in labels)]),
        boxes=np.array(boxes or [[0, 0, 40, 40]] * len(flat), np.float32).reshape(-1, 4),
        labels=np.array(flat, np.int64),
        is_crowd=np.array(crowd or [False] * len(flat), np.bool_),
        label_map=LabelMap(
            names=tuple(f"class {k}" for k in range(num_classes)), category_ids=tuple(range(num_classes))
        ),
        report=_NOTHING,
    )
