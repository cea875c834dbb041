"""Data sets and detections at random, full of what scorers get wrong."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Tree = dict[str, Any]
SIDES = (0.0, 31.0, 32.0, 33.0, 95.0, 96.0, 97.0)
_EDGES = (32.0**2, np.nextafter(32.0**2, 0), np.nextafter(32.0**2, 2000), 96.0**2, np.nextafter(96.0**2, 1e4))
AREAS = (0.0, *_EDGES, 1e10, np.nextafter(1e10, 1e11))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One data set, and what was found in it."""

    tree: Tree
    found: list[Tree]


def case(seed: int) -> Case:
    """The habits of a data set (ties, crowds, ids, counts) are drawn first, so that extremes come together."""
    rng = np.random.default_rng(seed)
    image_ids = _ids(rng, int(rng.integers(1, 7)))
    category_ids = _ids(rng, int(rng.integers(1, 5)))
    used = category_ids[: int(rng.integers(1, len(category_ids) + 1))]  # the rest are classes without objects
    crowd = float(rng.choice([0.0, 0.15, 0.6]))
    grid = bool(rng.random() < 0.3)  # whole numbers make equal IoU likely
    annotations = [
        _annotation(rng, image_id, int(rng.choice(used)), crowd=crowd, grid=grid)
        for image_id in image_ids
        for _ in range(int(rng.integers(0, 9)) * int(rng.random() < 0.8))
    ]
    between = [_between(rng, image_id, int(rng.choice(used))) for image_id in image_ids if grid and rng.random() < 0.3]
    annotations += [one for objects, _ in between for one in objects]
    for annotation, number in zip(annotations, _annotation_ids(rng, len(annotations)), strict=True):
        annotation["id"] = number
    digits = int(rng.choice([0, 1, 2, 9]))
    found = [
        one
        for image_id in image_ids
        for one in _of_image(rng, image_id, annotations, category_ids, digits=digits, grid=grid)
    ]
    found += [one for _, detections in between for one in detections]
    tree = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 300, "height": 300} for i in image_ids],
        "annotations": [annotations[i] for i in rng.permutation(len(annotations))],
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
    }
    return Case(tree=tree, found=[found[i] for i in rng.permutation(len(found))])


def _ids(rng: np.random.Generator, count: int) -> list[int]:
    """Sparse and unsorted, or from 0, or far apart."""
    match int(rng.integers(3)):
        case 0:
            return rng.choice(10_000, count, replace=False).tolist()
        case 1:
            return rng.permutation(count).tolist()
        case _:
            return (rng.choice(1000, count, replace=False) * 2**50 + 7).tolist()


def _annotation_ids(rng: np.random.Generator, count: int) -> list[int]:
    """From 1, which every scorer reads right; `score` numbers others itself, so its tests have them."""
    return (rng.permutation(3 * count)[:count] + 1).tolist()


def _box(rng: np.random.Generator, *, grid: bool) -> list[float]:
    if grid:
        return [float(v) for v in (*rng.integers(0, 20, 2), *rng.integers(1, 12, 2))]
    if rng.random() < 0.25:
        return [float(rng.integers(0, 50)), float(rng.integers(0, 50)), *rng.choice(SIDES, 2).tolist()]
    return [*rng.uniform(-5, 150, 2).tolist(), *rng.uniform(0.5, 150, 2).tolist()]


def _annotation(rng: np.random.Generator, image_id: int, category_id: int, *, crowd: float, grid: bool) -> Tree:
    box = _box(rng, grid=grid)
    kind = rng.random()
    area = box[2] * box[3] if kind < 0.5 else box[2] * box[3] * float(rng.uniform(0, 1))
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": float(rng.choice(AREAS)) if kind > 0.85 else area,
        "iscrowd": int(rng.random() < crowd),
    }


def _between(rng: np.random.Generator, image_id: int, category_id: int) -> tuple[list[Tree], list[Tree]]:
    """Two objects that a detection overlaps equally, and a second detection that fits one of them alone."""
    x, y = rng.integers(200, 240, 2).tolist()
    boxes = [[float(x + shift), float(y), 5.0, 5.0] for shift in (0, 2, 1)]
    ids = {"image_id": image_id, "category_id": category_id}
    objects = [{**ids, "bbox": box, "area": 25.0, "iscrowd": 0} for box in boxes[:2]]
    choice = boxes[int(rng.integers(2))]
    return objects, [{**ids, "bbox": boxes[2], "score": 0.95}, {**ids, "bbox": list(choice), "score": 0.9}]


def _of_image(
    rng: np.random.Generator,
    image_id: int,
    annotations: list[Tree],
    category_ids: list[int],
    *,
    digits: int,
    grid: bool,
) -> list[Tree]:
    mine = [one for one in annotations if one["image_id"] == image_id]
    count = int(rng.integers(101, 140)) if rng.random() < 0.1 else int(rng.integers(0, 14))
    # So that one class passes 100, or all classes of an image together.
    alone = int(rng.choice(category_ids)) if rng.random() < 0.6 else None
    made: list[Tree] = []
    for _ in range(count):
        like = mine[rng.integers(len(mine))] if mine and rng.random() < 0.7 else None
        category_id = like["category_id"] if like and rng.random() < 0.9 else int(rng.choice(category_ids))
        made.append(
            {
                "image_id": image_id,
                "category_id": alone if count > 100 and alone is not None else category_id,
                "bbox": _near(rng, like["bbox"], grid=grid) if like else _box(rng, grid=grid),
                "score": round(float(rng.random()), digits),
            }
        )
    return made


def _near(rng: np.random.Generator, box: list[float], *, grid: bool) -> list[float]:
    if rng.random() < 0.3:
        return list(box)
    moved = np.array(box) + (rng.integers(-1, 2, 4) if grid else rng.normal(0, 3, 4))
    return [*moved[:2].tolist(), *np.maximum(moved[2:], 0).tolist()]
