"""Run a detector over a whole data set."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.data.columns import Columns
from detector.evaluate.results import Results
from detector.geometry import boxes as box_math
from detector.types import Batch, Detections, Placement

Detect = Callable[[Tensor, Sequence[Placement]], Sequence[Detections]]


Found = tuple[int, Detections]
"""A row of the data set and what was found in its image."""


def detections(
    detect: Detect, batches: Iterable[Batch], *, on_unreadable: Callable[[str], None] | None = None
) -> Iterator[Found]:
    """What is found in each image, in the order of the batches.

    Args:
        detect: Finds objects in canvases, as `model.inference.detect`.
        batches: An evaluation loader.
        on_unreadable: Called with the reason for each image that could not be read; its objects count as missed.
    """
    for batch in batches:
        if on_unreadable is not None:
            for reason in batch.unreadable:
                on_unreadable(reason)
        found = detect(batch.images, batch.placements)
        yield from zip(cast("list[int]", batch.indices.tolist()), found, strict=True)


def results(found: Iterable[Found], columns: Columns, *, progress: Callable[[int, int], None] | None = None) -> Results:
    """Keep every score, by the ids of the file behind `columns`, in the order of the images.

    Args:
        found: Each image once.
        columns: The split; labels are those of its label map.
        progress: Called after each image with how many are done and how many there are.
    """
    category_ids = np.array(columns.label_map.category_ids, dtype=np.int64)
    done: set[int] = set()
    parts: list[Results] = []
    for row, one in found:
        assert row not in done, f"row {row} came twice: every image must count once"
        done.add(row)
        parts.append(_of_image(one, image_id=int(columns.image_ids[row]), category_ids=category_ids))
        if progress is not None:
            progress(len(done), len(columns))
    return _joined(parts)


def merge(parts: Sequence[Results], columns: Columns) -> Results:
    """What several processes have found, each in some of the images, in the order of the images."""
    image_ids = np.concatenate([part.image_ids for part in parts])
    places = np.argsort(columns.image_ids, kind="stable")
    rows = places[np.searchsorted(columns.image_ids, image_ids, sorter=places)]
    order = np.argsort(rows, kind="stable")
    return Results(
        image_ids=image_ids[order],
        category_ids=np.concatenate([part.category_ids for part in parts])[order],
        boxes_xywh=np.concatenate([part.boxes_xywh for part in parts])[order],
        scores=np.concatenate([part.scores for part in parts])[order],
    )


def _of_image(found: Detections, *, image_id: int, category_ids: NDArray[np.int64]) -> Results:
    boxes = found.boxes.detach().to("cpu", torch.float64)
    return Results(
        image_ids=np.full(len(found), image_id, dtype=np.int64),
        category_ids=category_ids[found.labels.cpu().numpy()],
        # The sides are taken in float64: in float32 a small box far from the origin would lose digits.
        boxes_xywh=box_math.xyxy_to_xywh(boxes).numpy(),
        scores=found.scores.detach().to("cpu", torch.float64).numpy(),
    )


def _joined(parts: Sequence[Results]) -> Results:
    return Results(
        image_ids=np.concatenate([np.empty(0, np.int64), *(part.image_ids for part in parts)]),
        category_ids=np.concatenate([np.empty(0, np.int64), *(part.category_ids for part in parts)]),
        boxes_xywh=np.concatenate([np.empty((0, 4)), *(part.boxes_xywh for part in parts)]),
        scores=np.concatenate([np.empty(0), *(part.scores for part in parts)]),
    )
