"""Run a detector over a whole data set."""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.data.columns import Columns
from detector.evaluate.results import Results
from detector.types import Batch, Detections, Placement

Detect = Callable[[Tensor, Sequence[Placement]], Sequence[Detections]]


def collect(
    detect: Detect,
    batches: Iterable[Batch],
    columns: Columns,
    *,
    progress: Callable[[int, int], None] | None = None,
    on_unreadable: Callable[[str], None] | None = None,
) -> Results:
    """Detect in every image and keep every score.

    Results name images and categories by the ids of the file behind `columns` and stand in the order of the batches.

    Args:
        detect: Finds objects in canvases, as `model.inference.detect`.
        batches: An evaluation loader of `columns`.
        columns: The split.
        progress: Called after each batch with how many images are done and how many there are.
        on_unreadable: Called with the name of each image that could not be read; its objects count as missed.
    """
    category_ids = np.array(columns.label_map.category_ids, dtype=np.int64)
    done: set[int] = set()
    parts: list[Results] = []
    for batch in batches:
        if on_unreadable is not None:
            for name in batch.unreadable:
                on_unreadable(name)
        found = detect(batch.images, batch.placements)
        rows = cast("list[int]", batch.indices.tolist())
        for row, one in zip(rows, found, strict=True):
            assert row not in done, f"row {row} came twice: every image must count once"
            done.add(row)
            parts.append(_of_image(one, image_id=int(columns.image_ids[row]), category_ids=category_ids))
        if progress is not None:
            progress(len(done), len(columns))
    return _joined(parts)


def _of_image(found: Detections, *, image_id: int, category_ids: NDArray[np.int64]) -> Results:
    boxes = found.boxes.detach().to("cpu", torch.float64).numpy()
    return Results(
        image_ids=np.full(len(found), image_id, dtype=np.int64),
        category_ids=category_ids[found.labels.cpu().numpy()],
        # The sides are taken in float64: in float32 a small box far from the origin would lose digits.
        boxes_xywh=np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
        scores=found.scores.detach().to("cpu", torch.float64).numpy(),
    )


def _joined(parts: Sequence[Results]) -> Results:
    return Results(
        image_ids=np.concatenate([np.empty(0, np.int64), *(part.image_ids for part in parts)]),
        category_ids=np.concatenate([np.empty(0, np.int64), *(part.category_ids for part in parts)]),
        boxes_xywh=np.concatenate([np.empty((0, 4)), *(part.boxes_xywh for part in parts)]),
        scores=np.concatenate([np.empty(0), *(part.scores for part in parts)]),
    )
