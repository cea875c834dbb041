"""Samples on one canvas, stacked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detector.types import Batch, Placement, Sample, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image on its canvas, on its way into a batch."""

    sample: Sample | None
    """None: it could not be read, and nothing stands in for it."""
    index: int
    placement: Placement
    unreadable: tuple[str, ...] = ()
    """Why, for each image that was tried and could not be read."""


def collate(items: Sequence[Item]) -> Batch:
    """Stack; items without a sample leave only their reasons behind, so a batch may be smaller, even empty."""
    present = [(item, item.sample) for item in items if item.sample is not None]
    shape = present[0][1].image.shape if present else (0, 0, 3)
    images = np.zeros((len(present), *shape), np.uint8)
    for image, (_, sample) in zip(images, present, strict=True):
        image[:] = sample.image
    return Batch(
        # Memory stays channels-last, which is how images are decoded and how convolutions like them.
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        targets=_pad([sample for _, sample in present]),
        indices=torch.tensor([item.index for item, _ in present], dtype=torch.int64),
        placements=tuple(item.placement for item, _ in present),
        unreadable=tuple(dict.fromkeys(reason for item in items for reason in item.unreadable)),
    )


def join(parts: Sequence[Batch]) -> Batch:
    """The batch of which these are the parts, in their order."""
    most = max(part.targets.boxes.shape[1] for part in parts)
    has_crowd = any(part.targets.is_crowd is not None for part in parts)
    padded = [_padded(part.targets, most) for part in parts]
    return Batch(
        images=torch.cat([part.images for part in parts]),
        targets=Targets(
            boxes=torch.cat([one.boxes for one in padded]),
            labels=torch.cat([one.labels for one in padded]),
            is_object=torch.cat([one.is_object for one in padded]),
            is_crowd=torch.cat([_crowd(one) for one in padded]) if has_crowd else None,
        ),
        indices=torch.cat([part.indices for part in parts]),
        placements=tuple(placement for part in parts for placement in part.placements),
        unreadable=tuple(dict.fromkeys(reason for part in parts for reason in part.unreadable)),
    )


def _padded(targets: Targets, length: int) -> Targets:
    missing = length - targets.boxes.shape[1]
    return Targets(
        boxes=F.pad(targets.boxes, (0, 0, 0, missing)),
        labels=F.pad(targets.labels, (0, missing)),
        is_object=F.pad(targets.is_object, (0, missing)),
        is_crowd=F.pad(_crowd(targets), (0, missing)),
    )


def _crowd(targets: Targets) -> Tensor:
    return torch.zeros_like(targets.is_object) if targets.is_crowd is None else targets.is_crowd


def _pad(samples: Sequence[Sample]) -> Targets:
    shape = (len(samples), max([1, *(len(sample.labels) for sample in samples)]))
    boxes = np.zeros((*shape, 4), np.float32)
    labels = np.zeros(shape, np.int64)
    is_object = np.zeros(shape, np.bool_)
    is_crowd = np.zeros(shape, np.bool_)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count] = sample.boxes
        labels[row, :count] = sample.labels
        is_object[row, :count] = ~sample.is_crowd
        is_crowd[row, :count] = sample.is_crowd
    return Targets(
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        is_object=torch.from_numpy(is_object),
        is_crowd=torch.from_numpy(is_crowd) if is_crowd.any() else None,
    )
