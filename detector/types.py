"""The nouns of the pipeline, in the order the data meets them.

Legend of letters used in every shape of this package:

    B images in a batch      A priors of all pyramid levels, concatenated
    M objects of an image, padded to the largest count of the batch
    N objects of one image   K detections of one image
    C classes, background never counted      H, W pixels of the canvas

A box is `xyxy` in pixels unless its name says otherwise. "Canvas" is the network input, "original" is the image file.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_PIXELS = 8192
"""Longest side of a canvas."""
GREY = 114
"""Level of what is no image: the canvas around it, and what shows through its transparent pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """Class names and the category ids of the user's file; the position is the label the network learns."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.category_ids)} category ids")
        for kind, values in (("name", self.names), ("category id", self.category_ids)):
            repeated = sorted(str(value) for value, count in Counter(values).items() if count > 1)
            if repeated:
                raise ValueError(f"class {kind} {repeated[0]!r} stands twice in the label map")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How an image becomes network input. It travels inside the checkpoint, so that every door does the same."""

    canvas_hw: tuple[int, int]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of RGB in [0, 1]; the defaults are ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    padding: int = GREY
    """Grey level of the canvas outside the image."""

    def __post_init__(self) -> None:
        is_size = len(self.canvas_hw) == 2 and all(type(side) is int for side in self.canvas_hw)
        if not is_size or not 1 <= min(self.canvas_hw) <= max(self.canvas_hw) <= MOST_PIXELS:
            raise ValueError(f"canvas_hw must be two whole numbers between 1 and {MOST_PIXELS}, got {self.canvas_hw}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values) or 0 in self.std:
                raise ValueError(f"{name} must be three finite numbers, none of std 0, got {values}")
        if type(self.padding) is not int or not 0 <= self.padding <= 255:
            raise ValueError(f"padding must be a whole number between 0 and 255, got {self.padding}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one image lies on its canvas: at the top-left corner, scaled by one factor."""

    scale: float  # canvas pixels per original pixel
    original_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """How many images the loader is to stack, and what each shows."""

    size: int
    window_hw: tuple[int, int]
    """The part of the canvas."""
    is_clean: bool = False
    """Whether each image is shown whole and alone, whatever the settings say of zoom and mixing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with its objects, on its way through augmentation."""

    image: NDArray[np.uint8]  # [h, w, 3] RGB
    boxes: NDArray[np.float32]  # [N, 4] xyxy pixels of `image`
    labels: NDArray[np.int64]  # [N]
    is_crowd: NDArray[np.bool_]  # [N], a region that neither teaches nor punishes

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.boxes.shape != (count, 4) or self.is_crowd.shape != (count,):
            raise ValueError(
                f"a sample of {count} labels has boxes {self.boxes.shape} and crowd flags {self.is_crowd.shape}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Ground truth of a batch, padded: a row is an object, a crowd region, or nothing."""

    boxes: Tensor  # float32 [B, M, 4] xyxy canvas pixels
    labels: Tensor  # int64 [B, M]
    is_object: Tensor  # bool [B, M]
    is_crowd: Tensor | None = None  # bool [B, M], never true together with is_object; None where no row is one

    def to(self, device: torch.device) -> Self:
        return type(self)(
            boxes=self.boxes.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            is_object=self.is_object.to(device, non_blocking=True),
            is_crowd=None if self.is_crowd is None else self.is_crowd.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the loader yields."""

    images: Tensor  # uint8 [B, 3, H, W] RGB
    targets: Targets
    indices: Tensor  # int64 [B], rows of the data set
    placements: tuple[Placement, ...]  # length B
    unreadable: tuple[str, ...] = ()
    """Why, for each image file that could not be read; in training another image took its place in the batch."""

    def to(self, device: torch.device) -> Self:
        return type(self)(
            images=self.images.to(device, non_blocking=True),
            targets=self.targets.to(device),
            indices=self.indices,
            placements=self.placements,
            unreadable=self.unreadable,
        )

    def part(self, images: slice) -> Self:
        """Some of the images, without a copy."""
        t = self.targets
        return type(self)(
            images=self.images[images],
            targets=Targets(
                boxes=t.boxes[images],
                labels=t.labels[images],
                is_object=t.is_object[images],
                is_crowd=None if t.is_crowd is None else t.is_crowd[images],
            ),
            indices=self.indices[images],
            placements=self.placements[images],
            unreadable=self.unreadable,
        )

    def pin(self) -> Self:
        """Copy to page-locked memory, from which a transfer to the GPU can overlap with work."""
        t = self.targets
        return type(self)(
            images=self.images.pin_memory(),
            targets=Targets(
                boxes=t.boxes.pin_memory(),
                labels=t.labels.pin_memory(),
                is_object=t.is_object.pin_memory(),
                is_crowd=None if t.is_crowd is None else t.is_crowd.pin_memory(),
            ),
            indices=self.indices,
            placements=self.placements,
            unreadable=self.unreadable,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """The fixed reference boxes of one canvas size, level by level."""

    boxes: Tensor  # float32 [A, 4] xyxy canvas pixels
    level_sizes: tuple[int, ...]  # priors of each pyramid level; they sum to A


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Raw network output for every prior."""

    logits: Tensor  # float [B, A, C], or [B, A, C + 1] with background last under softmax
    deltas: Tensor  # float [B, A, 4], box offsets as `geometry.codec` writes them
    score_factor: Tensor | None = None
    """Float [B, A] in [0, 1], of the heads that judge a box; multiplied into its scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which object each prior answers for."""

    matched: Tensor  # int64 [B, A], a row of Targets; meaningful where is_positive
    is_positive: Tensor  # bool [B, A]
    is_ignored: Tensor  # bool [B, A], neither positive nor background


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTargets:
    """What a trained model says of the same priors."""

    logits: Tensor  # float32 [B, A, C]
    deltas: Tensor  # float32 [B, A, 4]
    box_weight: Tensor  # float32 [B, A], the teacher's confidence; sums to the count that losses are divided by


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorTargets:
    """What every prior is to predict; boxes and labels mean something only where is_positive."""

    priors: Tensor  # float32 [A, 4] xyxy canvas pixels
    boxes: Tensor  # float32 [B, A, 4] xyxy canvas pixels
    labels: Tensor  # int64 [B, A]
    is_positive: Tensor  # bool [B, A]
    weight: Tensor  # float32 [B, A], 0 where the prior is ignored, else 1
    teacher: TeacherTargets | None = None

    def piece(self, images: slice, rows: slice) -> Self:
        """The same for some of the images and a run of the priors."""
        t = self.teacher
        here = (images, rows)
        return type(self)(
            priors=self.priors[rows],
            boxes=self.boxes[here],
            labels=self.labels[here],
            is_positive=self.is_positive[here],
            weight=self.weight[here],
            teacher=None
            if t is None
            else TeacherTargets(logits=t.logits[here], deltas=t.deltas[here], box_weight=t.box_weight[here]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """Loss terms, divided by the count of positives and not yet weighted."""

    terms: tuple[str, ...]
    """Names, `head.term`, such as box.smooth_l1."""
    values: Tensor  # float32 [len(terms)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """Found objects of one image, best first."""

    boxes: Tensor  # float32 [K, 4] xyxy pixels of the original image
    scores: Tensor  # float32 [K], in [0, 1]
    labels: Tensor  # int64 [K]
    names: tuple[str, ...]  # length K, the class of each
    class_scores: Tensor | None = None
    """Float32 [K, C], of every class, as the view and the prior have it that each box comes from; `scores` may be means
    over several views. None where several models were fused."""

    def __len__(self) -> int:
        return len(self.names)
