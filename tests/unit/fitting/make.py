"""Columns and facts for the tests of `detector.fitting`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detector.data.columns import Columns, ReadReport, pack_names
from detector.fitting.facts import Facts, Machine
from detector.types import LabelMap

_NOTHING = ReadReport(
    images=0, background=0, listed=0, objects=0, crowd=0, dropped_no_area=0, dropped_outside=0, dropped_tiny=0,
    clipped=0, missing_files=0, findings=(),
)  # fmt: skip
CPU = Machine(kind="cpu", cores=2)
GPU = Machine(kind="cuda", cores=16, memory_bytes=24 << 30)


def columns(
    labels: Sequence[Sequence[int]],
    *,
    boxes: Sequence[Sequence[float]] | None = None,
    sizes_hw: Sequence[tuple[int, int]] | None = None,
    crowd: Sequence[bool] | None = None,
) -> Columns:
    """A split in memory: the labels of each image; boxes and crowd flags of all objects."""
    flat = [label for of_image in labels for label in of_image]
    count = len(labels)
    names, name_offsets = pack_names([f"{i}.png" for i in range(count)])
    num_classes = max(flat, default=0) + 1
    return Columns(
        annotations=Path("a.json"),
        images=Path("images"),
        image_ids=np.arange(count),
        name_bytes=names,
        name_offsets=name_offsets,
        sizes_hw=np.array(sizes_hw or [(480, 640)] * count, np.int32),
        offsets=np.cumsum([0, *(len(of_image) for of_image in labels)]),
        boxes=np.array(boxes or [[0, 0, 40, 40]] * len(flat), np.float32).reshape(-1, 4),
        labels=np.array(flat, np.int64),
        is_crowd=np.array(crowd or [False] * len(flat), np.bool_),
        label_map=LabelMap(
            names=tuple(f"class {k}" for k in range(num_classes)), category_ids=tuple(range(num_classes))
        ),
        report=_NOTHING,
    )


def facts(**changes: Any) -> Facts:
    """Two hundred pictures of 640x480 with a middling object each, on a CPU."""
    made = Facts(
        num_images=200,
        num_objects=200,
        classes=("a", "b"),
        num_seen=2,
        longer_side=640.0,
        canvas_shape=(0.75, 1.0),
        sides=np.full(200, 0.15),
        weights=np.full(200, 1 / 200),
        most_objects=1,
        overlap=0.0,
        machine=CPU,
    )
    return replace(made, **changes)
