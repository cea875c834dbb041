import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.data import coco
from detector.data.columns import Columns
from detector.evaluate import collect as collecting
from detector.evaluate.coco import score
from detector.evaluate.collect import Detect
from detector.evaluate.results import Results
from detector.types import Batch, Detections, LabelMap, Placement, Targets

LABELS = LabelMap(names=("zebra", "ant"), category_ids=(1, 2))  # of the training file
IMAGE_IDS = (40, 7, 19)


@pytest.fixture
def columns(tmp_path: Path) -> Columns:
    """A file with its own ids for the same classes."""
    tree = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in IMAGE_IDS],
        "annotations": [
            {"id": 1, "image_id": 40, "category_id": 8, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 2, "image_id": 19, "category_id": 5, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0},
        ],
        "categories": [{"id": 5, "name": "zebra"}, {"id": 8, "name": "ant"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(tree))
    (tmp_path / "images").mkdir()
    for i in IMAGE_IDS:
        (tmp_path / "images" / f"{i}.jpg").touch()
    return coco.read(path, tmp_path / "images", label_map=LABELS)


def collect(
    detect: Detect,
    batches: Iterable[Batch],
    columns: Columns,
    *,
    progress: Callable[[int, int], None] | None = None,
    on_unreadable: Callable[[str], None] | None = None,
) -> Results:
    found = collecting.detections(detect, batches, on_unreadable=on_unreadable)
    return collecting.results(found, columns, progress=progress)


def batch(rows: Sequence[int], unreadable: tuple[str, ...] = ()) -> Batch:
    """Every pixel of an image is its row, so that a detector can know it."""
    count = len(rows)
    images = torch.tensor(rows, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    nothing = torch.zeros(count, 1, dtype=torch.bool)
    targets = Targets(
        boxes=torch.zeros(count, 1, 4),
        labels=torch.zeros(count, 1, dtype=torch.int64),
        is_object=nothing,
        is_crowd=nothing,
    )
    return Batch(
        images=images,
        targets=targets,
        indices=torch.tensor(rows),
        placements=tuple(Placement(scale=0.5, original_hw=(80, 100 + row)) for row in rows),
        unreadable=unreadable,
    )


FOUND = {
    0: ([[1.0, 2.0, 4.0, 6.0]], [0.9], [1]),
    1: ([], [], []),
    2: ([[10.0, 20.0, 40.0, 60.0], [0.1, 0.2, 0.3, 0.7]], [0.8, 0.001], [0, 1]),
}


def detect(images: Tensor, placements: Sequence[Placement]) -> list[Detections]:
    rows = images[:, 0, 0, 0].tolist()
    assert [placement.original_hw[1] - 100 for placement in placements] == rows
    return [
        Detections(
            boxes=torch.tensor(boxes).reshape(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels, dtype=torch.int64),
            names=tuple(LABELS.names[label] for label in labels),
        )
        for boxes, scores, labels in (FOUND[row] for row in rows)
    ]


def test_ids_boxes_and_all_scores(columns: Columns) -> None:
    results = collect(detect, [batch([0, 1]), batch([2])], columns)
    assert results.image_ids.tolist() == [40, 19, 19]
    assert results.category_ids.tolist() == [8, 5, 8]
    assert results.boxes_xywh[:2].tolist() == [[1, 2, 3, 4], [10, 20, 30, 40]]
    assert results.scores.tolist() == np.array([0.9, 0.8, 0.001], np.float32).tolist()


def test_sides_are_taken_in_double_precision(columns: Columns) -> None:
    x0, y0, x1, y1 = np.array(FOUND[2][0][1], np.float32).astype(np.float64)
    results = collect(detect, [batch([2])], columns)
    assert results.boxes_xywh[1].tolist() == [x0, y0, x1 - x0, y1 - y0]


def test_results_fit_the_file_they_came_from(columns: Columns) -> None:
    scores = score(columns.annotations, collect(detect, [batch([0, 1, 2])], columns))
    assert scores.ap == pytest.approx(1)
    assert scores.num_images == 3


def test_nothing_found_anywhere(columns: Columns) -> None:
    results = collect(detect, [batch([1])], columns)
    assert len(results) == 0
    assert score(columns.annotations, results).ap == 0


def test_progress_counts_images(columns: Columns) -> None:
    seen: list[tuple[int, int]] = []
    collect(detect, [batch([0, 1]), batch([2])], columns, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_reasons_are_passed_on(columns: Columns) -> None:
    names: list[str] = []
    batches = [batch([0], unreadable=("a.jpg", "b.jpg")), batch([2], unreadable=("c.jpg",))]
    collect(detect, batches, columns, on_unreadable=names.append)
    assert names == ["a.jpg", "b.jpg", "c.jpg"]


def test_an_image_must_not_count_twice(columns: Columns) -> None:
    with pytest.raises(AssertionError, match="row 2 came twice"):
        collect(detect, [batch([2]), batch([2])], columns)
