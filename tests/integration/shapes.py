"""A generated data set: coloured boxes and discs on noise, in COCO form."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

CATEGORIES = ({"id": 7, "name": "box"}, {"id": 40, "name": "disc"})  # ids with a gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where the files of one split go."""

    annotations: Path
    images: Path


def plain(folder: Path, name: str) -> Split:
    return Split(annotations=folder / f"{name}.json", images=folder / "images")


def write(split: Split, *, count: int, seed: int, size_hw: tuple[int, int] = (96, 128)) -> None:
    """Draw `count` images with one to three objects each, and the JSON that says where they are."""
    rng = np.random.default_rng(seed)
    split.images.mkdir(parents=True, exist_ok=True)
    split.annotations.parent.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        name = f"{seed}-{index}.png"
        canvas = rng.integers(0, 60, (*size_hw, 3), dtype=np.uint8)
        for x, y, side in _places(rng, size_hw):
            category = CATEGORIES[int(rng.integers(2))]
            if category["name"] == "box":
                cv2.rectangle(canvas, (x, y), (x + side - 1, y + side - 1), (230, 60, 60), -1)
            else:
                cv2.circle(canvas, (x + side // 2, y + side // 2), side // 2, (60, 230, 60), -1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": category["id"],
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(split.images / name), canvas)
        images.append({"id": index + 1, "file_name": name, "height": size_hw[0], "width": size_hw[1]})
    tree = {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}
    split.annotations.write_text(json.dumps(tree))


def _places(rng: np.random.Generator, size_hw: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Up to three squares that do not touch: one in each third of the width."""
    third = size_hw[1] // 3
    places: list[tuple[int, int, int]] = []
    for k in range(int(rng.integers(1, 4))):
        side = int(rng.integers(third // 2, third - 6))
        x = k * third + int(rng.integers(0, third - side))
        places.append((x, int(rng.integers(0, size_hw[0] - side)), side))
    return places
