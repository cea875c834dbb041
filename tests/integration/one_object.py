"""A generated data set for the localizer: one object an image, of three shapes, coloured and textured, on noise."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 96
SHAPES = ("circle", "square", "triangle")


def write(folder: Path, name: str, *, count: int, seed: int, shapes: Sequence[str] = SHAPES) -> None:
    """Draw `count` images and the JSON that says where their objects are, in the plain layout."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        label = int(rng.integers(len(shapes)))
        width, height = (int(side) for side in rng.integers(28, 64, 2))
        x, y = int(rng.integers(0, SIDE - width + 1)), int(rng.integers(0, SIDE - height + 1))
        mask = _mask(shapes[label], (x, y, width, height))
        picture = np.where(mask[..., None], _surface(rng, bright=True), _surface(rng, bright=False))
        file_name = f"{name}-{index}.png"
        cv2.imwrite(str(folder / "images" / file_name), picture)
        images.append({"id": index + 1, "file_name": file_name, "height": SIDE, "width": SIDE})
        annotations.append(
            {
                "id": index + 1,
                "image_id": index + 1,
                "category_id": label + 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    categories = [{"id": label + 1, "name": shape} for label, shape in enumerate(shapes)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(tree))


def _mask(shape: str, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Pixels of a shape that touches all four sides of its box."""
    x, y, width, height = box
    column, row = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    across, down = (column - x) / width, (row - y) / height  # in [0, 1] inside the box
    inside = (across > 0) & (across < 1) & (down > 0) & (down < 1)
    match shape:
        case "circle":
            return inside & ((across - 0.5) ** 2 + (down - 0.5) ** 2 < 0.25)
        case "triangle":
            return inside & (abs(across - 0.5) < down / 2)
        case _:
            return inside


def _surface(rng: np.random.Generator, *, bright: bool) -> NDArray[np.uint8]:
    """One colour with stripes of any direction and noise over it."""
    colour = rng.uniform(130, 230, 3) if bright else rng.uniform(20, 90, 3)
    row, column = np.mgrid[:SIDE, :SIDE]
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 12)
    stripes = 20 * np.sin(2 * np.pi * (np.cos(angle) * row + np.sin(angle) * column) / period)
    noise = rng.normal(0, 12, (SIDE, SIDE, 3))
    return np.clip(colour + stripes[..., None] + noise, 0, 255).astype(np.uint8)
