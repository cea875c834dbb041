"""What is known of a data set and a machine before a run, as far as settings depend on it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detector.config import Backbone, LengthConfig, TrunkNorm
from detector.data.columns import Columns
from detector.fitting import overlap
from detector.fitting.levels import Pinned
from detector.geometry import letterbox

_LARGEST_CANVAS = 8192
_NEARLY_ALL = 0.9
_MOST_OBJECTS = 100_000
"""That are looked at; quantiles of more would not differ."""
_ENOUGH_OF_A_CLASS = 20
"""Objects from which on a class weighs as much as any other; one odd object is not to decide about the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run will take place."""

    kind: Literal["cpu", "cuda"]
    cores: int = 1
    memory_bytes: int | None = None
    """Of a GPU."""
    processes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user has decided and other settings depend on; None where the choice is ours."""

    image_size: int | None = None
    batch_size: int | None = None
    length: LengthConfig | None = None
    zoom: tuple[float, float] | None = None
    levels: Pinned = field(default_factory=Pinned)
    backbone: Backbone | None = None
    prior_scale: float | None = None
    """Side of a prior, in strides of its level."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    norm: TrunkNorm | None = None
    has_weights: bool = False
    """Whether training begins with given weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A data set and a machine."""

    num_images: int
    num_with_objects: int
    """Images, from which alone there is something to learn about boxes and classes."""
    num_objects: int
    num_classes: int
    seen: tuple[str, ...]
    """Names of the classes that have objects."""
    longer_side: float
    """In pixels, that nine in ten of the pictures do not exceed."""
    canvas_shape: tuple[float, float]
    """Height and width of the canvas; the longer is 1."""
    sides: NDArray[np.float64]
    """Square root of each object's area, where the longer side of the canvas is 1."""
    extents: NDArray[np.float64]
    """Of each object, the larger of width and height, each relative to that side of the canvas."""
    weights: NDArray[np.float64]
    """Of each object, to sum 1; each class has the same, as it has in AP, those of under 20 objects less."""
    most_objects: int
    """Of one image."""
    overlap: float
    """IoU with its nearest neighbour of the same class that one object in fifty exceeds."""
    machine: Machine


def of_columns(columns: Columns, machine: Machine) -> Facts:
    """Facts of a split that has objects; crowd regions do not count."""
    rows = np.repeat(np.arange(len(columns)), np.diff(columns.offsets))
    real = np.flatnonzero(~columns.is_crowd)
    boxes, labels, rows = columns.boxes[real].astype(np.float64), columns.labels[real], rows[real]
    canvas = letterbox.choose_canvas(columns.sizes_hw, _LARGEST_CANVAS)
    shape = np.array(canvas) / max(canvas)
    scale = (shape / columns.sizes_hw).min(axis=1)  # of each image, to fit on that canvas
    spread = np.unique(np.linspace(0, len(real) - 1, min(len(real), _MOST_OBJECTS)).astype(np.int64))
    sizes_wh = (boxes[spread, 2:] - boxes[spread, :2]) * scale[rows[spread], None]
    trust = np.minimum(1, np.bincount(labels) / _ENOUGH_OF_A_CLASS)
    weights = trust[labels[spread]] / np.bincount(labels[spread])[labels[spread]]
    seen: list[int] = np.unique(labels).tolist()
    return Facts(
        num_images=len(columns),
        num_with_objects=len(np.unique(rows)),
        num_objects=len(real),
        num_classes=len(columns.label_map.names),
        seen=tuple(columns.label_map.names[label] for label in seen),
        longer_side=float(np.quantile(columns.sizes_hw.max(axis=1), _NEARLY_ALL, method="inverted_cdf")),
        canvas_shape=(float(shape[0]), float(shape[1])),
        sides=np.sqrt(sizes_wh.prod(axis=1)),
        extents=(sizes_wh / shape[::-1]).max(axis=1),
        weights=weights / weights.sum(),
        most_objects=int(np.bincount(rows).max()),
        overlap=overlap.typical(boxes, labels, rows),
        machine=machine,
    )
