"""Objects and detections of few words."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detector.analysis import average_precision, matching, overlaps
from detector.analysis.matching import Matches
from detector.analysis.overlaps import Overlaps
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results

Box = Sequence[float]


def objects(
    rows: Sequence[tuple[int, int, Box]], *, crowd: Sequence[int] = (), images: int = 0, classes: int = 0
) -> Objects:
    """Of (image, class, box); `crowd` are places in the list."""
    boxes = np.array([box for _, _, box in rows], np.float64).reshape(-1, 4)
    return Objects(
        num_images=images or max((image for image, _, _ in rows), default=0) + 1,
        num_classes=classes or max((label for _, label, _ in rows), default=0) + 1,
        image_rows=np.array([image for image, _, _ in rows], np.int64),
        class_rows=np.array([label for _, label, _ in rows], np.int64),
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        is_crowd=np.isin(np.arange(len(rows)), crowd),
    )


def found(rows: Sequence[tuple[int, int, Box, float]]) -> Results:
    """Of (image, class, box, score), by row."""
    return Results(
        image_ids=np.array([image for image, _, _, _ in rows], np.int64),
        category_ids=np.array([label for _, label, _, _ in rows], np.int64),
        boxes_xywh=np.array([box for _, _, box, _ in rows], np.float64).reshape(-1, 4),
        scores=np.array([score for _, _, _, score in rows], np.float64),
    )


def met(truth: Objects, results: Results) -> tuple[Matches, Overlaps]:
    matches = matching.match(truth, results)
    return matches, overlaps.of(matches, truth, results)


def ap_by_class(matches: Matches) -> NDArray[np.float64]:
    """[10, class], of the images as they are."""
    return average_precision.by_class_and_sample(matches, np.ones((1, matches.num_images)))[0]


def scene(seed: int, *, images: int = 60, classes: int = 3) -> Objects:
    """Pictures full of objects that do not overlap, on a grid of 6 by 6 places."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, Box]] = []
    for image in range(images):
        for place in rng.permutation(36)[: rng.integers(5, 15)].tolist():
            side = rng.uniform(30, 70, 2)
            corner = np.array([place % 6, place // 6]) * 100 + rng.uniform(0, 25, 2)
            rows.append((image, int(rng.integers(classes)), [*corner.tolist(), *side.tolist()]))
    return objects(rows, images=images, classes=classes)


def seen(truth: Objects, seed: int, *, noise: float = 0.04, found_share: float = 0.97) -> Results:
    """What a good detector makes of it: most objects, well boxed and sure, and some weak mistakes."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, Box, float]] = []
    for image, label, box in zip(truth.image_rows, truth.class_rows, truth.boxes_xywh, strict=True):
        x, y, w, h = box.tolist()
        if rng.random() < found_share:
            dx, dy, dw, dh = rng.normal(0, noise, 4)
            width, height = w * np.exp(dw), h * np.exp(dh)
            corner = (x + w / 2 + dx * w - width / 2, y + h / 2 + dy * h - height / 2)
            rows.append((int(image), int(label), [*corner, width, height], float(rng.beta(8, 2))))
        for _ in range(rng.poisson(0.5)):
            wrong = int(rng.integers(truth.num_classes))
            at = [*rng.uniform(0, 550, 2).tolist(), *rng.uniform(30, 70, 2).tolist()]
            rows.append((int(image), wrong, at, float(rng.beta(1, 8))))
    return found(rows)
