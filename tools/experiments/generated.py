"""Draw data sets to compare settings on: equal for equal seeds, in COCO form.

`specks`, `grains` and `seeds` are crowded with small shapes, up to 60 a picture. `signs`, `posters` and `badges` have
many classes at all sizes, the first of them three times as often as the last. A class is a form that is filled or
hollow, in any colour, so that only shape tells.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
FORMS = ("disc", "square", "triangle", "diamond", "cross", "star", "hexagon", "arrow", "bar", "moon")
SIZES_HW = ((240, 320), (360, 480), (480, 640), (600, 800))
TALL_HW = ((400, 300), (640, 480), (800, 500))
MIN_VISIBLE = 0.5
"""An object that others cover by more is taken out of the labels."""
SMALLEST_SIDE = 4
"""Pixels; what shows less at the border of a picture is no object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a data set looks like."""

    name: str
    num_classes: int
    num_objects: tuple[int, int]
    """Least and most of a picture."""
    sides: tuple[float, float]
    """Shortest and longest, relative to the longer side of the picture."""
    sizes_hw: tuple[tuple[int, int], ...]
    tail: float
    """Class k is drawn in proportion to (k + 1) ** -tail."""


SPECKS = Kind(name="specks", num_classes=4, num_objects=(15, 60), sides=(0.015, 0.05), sizes_hw=SIZES_HW[2:], tail=0.5)
SIGNS = Kind(name="signs", num_classes=20, num_objects=(3, 12), sides=(0.05, 0.25), sizes_hw=SIZES_HW, tail=0.4)
GRAINS = Kind(name="grains", num_classes=8, num_objects=(10, 40), sides=(0.02, 0.07), sizes_hw=SIZES_HW[1:], tail=0.3)
POSTERS = Kind(name="posters", num_classes=16, num_objects=(2, 8), sides=(0.08, 0.4), sizes_hw=TALL_HW, tail=0.4)
SEEDS = Kind(name="seeds", num_classes=5, num_objects=(8, 45), sides=(0.015, 0.09), sizes_hw=TALL_HW, tail=0.6)
BADGES = Kind(name="badges", num_classes=12, num_objects=(2, 15), sides=(0.04, 0.3), sizes_hw=SIZES_HW, tail=0.4)
KINDS = (SPECKS, SIGNS, GRAINS, POSTERS, SEEDS, BADGES)


def write(folder: Path, kind: Kind, counts: dict[str, int], seed: int) -> None:
    """A data set in the plain layout: a JSON file for each split, and `images/`.

    Args:
        folder: Made where it is not there.
        kind: Of which sort.
        counts: Pictures of each split.
        seed: Of everything.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for place, (split, count) in enumerate(counts.items()):
        tables: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
        for index in range(count):
            rng = np.random.default_rng([seed, kind.num_classes, place, index])
            picture, found = draw(kind, rng)
            name = f"{split}-{index:04}.jpg"
            cv2.imwrite(str(folder / "images" / name), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
            height, width = picture.shape[:2]
            tables["images"].append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for label, (left, top, wide, high) in found:
                tables["annotations"].append(
                    {
                        "id": len(tables["annotations"]) + 1,
                        "image_id": index + 1,
                        "category_id": label + 1,
                        "bbox": [left, top, wide, high],
                        "area": wide * high,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": k + 1, "name": class_name(k)} for k in range(kind.num_classes)]
        (folder / f"{split}.json").write_text(json.dumps({**tables, "categories": categories}), encoding="utf-8")


def class_name(label: int) -> str:
    return f"{'hollow ' * (label % 2)}{FORMS[label // 2]}"


def draw(kind: Kind, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[tuple[int, tuple[int, int, int, int]]]]:
    """A picture, and of each object its class and its box (left, top, width, height)."""
    height, width = kind.sizes_hw[int(rng.integers(len(kind.sizes_hw)))]
    picture = _background(height, width, rng)
    owner = np.full((height, width), -1, np.int32)
    chances = np.arange(1, kind.num_classes + 1) ** -kind.tail
    drawn: list[tuple[int, int]] = []  # class, and pixels before others came
    for place in range(int(rng.integers(kind.num_objects[0], kind.num_objects[1] + 1))):
        label = int(rng.choice(kind.num_classes, p=chances / chances.sum()))
        low, high = (math.log(side * max(height, width)) for side in kind.sides)
        side = math.exp(rng.uniform(low, high))
        centre = (rng.uniform(0, width), rng.uniform(0, height))
        covered = np.nonzero(_mask((height, width), label, centre, side, rng))
        shade = rng.integers(0, 256, 3) + rng.normal(0, 12, (len(covered[0]), 1))
        picture[covered] = np.clip(shade, 0, 255).astype(np.uint8)
        owner[covered] = place
        drawn.append((label, len(covered[0])))
    found: list[tuple[int, tuple[int, int, int, int]]] = []
    for place, (label, area) in enumerate(drawn):
        y, x = np.nonzero(owner == place)
        if len(x) > 0 and len(x) >= MIN_VISIBLE * area and min(np.ptp(x), np.ptp(y)) >= SMALLEST_SIDE - 1:
            box = (int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1)
            found.append((label, box))
    return np.asarray(cv2.GaussianBlur(picture, (3, 3), 0.6), np.uint8), found


def _background(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Clouds of three scales: no object stands before one flat colour."""
    clouds = np.zeros((height, width, 3), np.float32) + rng.uniform(60, 190, 3).astype(np.float32)
    for cells in (4, 16, 64):
        coarse = rng.normal(0, 22, (cells * 3 // 4 + 1, cells, 3)).astype(np.float32)
        clouds += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(clouds, 0, 255).astype(np.uint8)


def _mask(
    size_hw: tuple[int, int], label: int, centre: tuple[float, float], side: float, rng: np.random.Generator
) -> Mask:
    mask = np.zeros(size_hw, np.uint8)
    turn, stretch = rng.uniform(-0.4, 0.4), rng.uniform(0.8, 1.25)
    points = _outline(FORMS[label // 2]) * [side / 2 * stretch, side / 2 / stretch]
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    corners = np.round(points @ rotation.T + centre).astype(np.int32)
    if label % 2:
        cv2.polylines(mask, [corners], True, 255, max(1, round(side / 8)))
    else:
        cv2.fillPoly(mask, [corners], 255)
    return mask


def _outline(form: str) -> NDArray[np.float64]:
    """Corners in a square of two by two around zero."""
    outlines: dict[str, Callable[[], object]] = {
        "disc": lambda: _ring(24),
        "square": lambda: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "triangle": lambda: [(0, -1), (1, 1), (-1, 1)],
        "diamond": lambda: [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
        "cross": lambda: [(-.35, -1), (.35, -1), (.35, -.35), (1, -.35), (1, .35), (.35, .35),
                          (.35, 1), (-.35, 1), (-.35, .35), (-1, .35), (-1, -.35), (-.35, -.35)],
        "star": lambda: _ring(10) * np.where(np.arange(10) % 2, 0.4, 1.0)[:, None],
        "hexagon": lambda: _ring(6),
        "arrow": lambda: [(-1, -.3), (.1, -.3), (.1, -.9), (1, 0), (.1, .9), (.1, .3), (-1, .3)],
        "bar": lambda: [(-1, -.3), (1, -.3), (1, .3), (-1, .3)],
        "moon": lambda: np.concatenate([_ring(24)[6:19], (_ring(24) * [0.45, 1])[18:5:-1]]),
    }  # fmt: skip
    return np.array(outlines[form](), np.float64)


def _ring(corners: int) -> NDArray[np.float64]:
    angle = 2 * math.pi * np.arange(corners) / corners - math.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
