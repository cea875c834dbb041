"""Scoring by several processes: each looks at some of the images, the first one scores what all have found."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from detector.data.columns import Columns
from detector.evaluate import coco, collect
from detector.evaluate.coco import Scores
from detector.evaluate.results import Results
from detector.model.model_file import TrainedModel
from detector.run import scoring
from detector.train.distributed import World


def score(
    model: TrainedModel,
    columns: Columns,
    world: World,
    *,
    on_unreadable: Callable[[str], None],
    should_stop: Callable[[], bool],
    dtype: torch.dtype,
) -> Scores | None:
    """Scores of a model on a split, alike in all processes; None where one of them was told to stop."""
    reasons: list[str] = []
    mine = _find(model, columns, world, reasons.append, should_stop, dtype)
    parts: list[Results] = []
    for found, unreadable in world.gather((mine, reasons)):
        for reason in unreadable:
            on_unreadable(reason)
        if found is not None:
            parts.append(found)
    if len(parts) < world.size:
        return None
    return world.share(coco.score(columns.annotations, merge(parts, columns)) if world.is_first else None)


def merge(parts: Sequence[Results], columns: Columns) -> Results:
    """Detections of all parts in the order of the images, as one process would have them."""
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


class _StopRequested(Exception):  # noqa: N818 - not an error
    """The user does not want to wait for the end of a scoring."""


def _find(
    model: TrainedModel,
    columns: Columns,
    world: World,
    on_unreadable: Callable[[str], None],
    should_stop: Callable[[], bool],
    dtype: torch.dtype,
) -> Results | None:
    """What is found in the images of this process."""

    def look(done: int, total: int) -> None:
        if should_stop():
            raise _StopRequested

    rows = range(world.rank, len(columns), world.size)
    if not rows:
        return collect.results((), columns)
    found = scoring.find(model, columns, on_unreadable, dtype, rows=rows, trainers=world.neighbours)
    try:
        return collect.results(found, columns, progress=look)
    except _StopRequested:
        return None
