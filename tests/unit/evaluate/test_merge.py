"""Detections of several processes are put together as one process would have them."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector.evaluate import collect
from detector.evaluate.results import Results


def _results(image_ids: list[int], first: int = 0) -> Results:
    count = len(image_ids)
    numbers = np.arange(first, first + count)
    return Results(
        image_ids=np.array(image_ids, dtype=np.int64),
        category_ids=numbers,
        boxes_xywh=np.repeat(numbers[:, None], 4, axis=1).astype(np.float64),
        scores=numbers / 1000,
    )


@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_merged_parts_are_in_the_order_of_the_images(counts: list[int], size: int, seed: int) -> None:
    ids = np.random.default_rng(seed).permutation(100)[: len(counts)]
    columns = cast("Any", SimpleNamespace(image_ids=ids))
    whole = _results([int(ids[row]) for row, count in enumerate(counts) for _ in range(count)])
    rows = np.repeat(np.arange(len(counts)), counts)
    parts = []
    for rank in range(size):
        mine = rows % size == rank
        parts.append(
            Results(
                image_ids=whole.image_ids[mine],
                category_ids=whole.category_ids[mine],
                boxes_xywh=whole.boxes_xywh[mine],
                scores=whole.scores[mine],
            )
        )
    merged = collect.merge(parts, columns)
    for name in ("image_ids", "category_ids", "boxes_xywh", "scores"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
