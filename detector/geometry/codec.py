"""Box offsets: how the network writes a box relative to a prior (Girshick et al. 2014, appendix C)."""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from detector.geometry import boxes as box_math

Std = tuple[float, float, float, float]
"""Units of (dx, dy, dw, dh): an offset is divided by its unit."""

MAX_LOG_SIDE = math.log(1000 / 16)
"""Largest growth of a side that is decoded, as torchvision has it: an untrained head must not overflow exp."""

# Pixels. A box without width still has a finite logarithm.
_MIN_SIDE = 1e-3


def encode(boxes: Float[Tensor, "*#n 4"], priors: Float[Tensor, "*#n 4"], std: Std) -> Float[Tensor, "*#n 4"]:
    """Offsets (dx, dy, dw, dh) from priors to boxes. Leading axes broadcast.

    Finite for every finite box and prior: a side below a thousandth of a pixel counts as that.
    """
    centre, size = _centre_and_size(boxes)
    prior_centre, prior_size = _centre_and_size(priors)
    prior_size = prior_size.clamp(min=_MIN_SIDE)
    shift = (centre - prior_centre) / prior_size
    growth = (size.clamp(min=_MIN_SIDE) / prior_size).log()
    return torch.cat((shift, growth), dim=-1) / _units(std, boxes.device, boxes.dtype)


def decode(deltas: Float[Tensor, "*#n 4"], priors: Float[Tensor, "*#n 4"], std: Std) -> Float[Tensor, "*#n 4"]:
    """Boxes from offsets, the inverse of `encode`. Leading axes broadcast.

    A side grows by at most exp(`MAX_LOG_SIDE`) = 62.5; beyond, its gradient is zero. Not clipped to the canvas.
    """
    prior_centre, prior_size = _centre_and_size(priors)
    scaled = deltas * _units(std, deltas.device, deltas.dtype)
    centre = prior_centre + scaled[..., :2] * prior_size
    half = prior_size * scaled[..., 2:].clamp(max=MAX_LOG_SIDE).exp() / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return box_math.centres(boxes), boxes[..., 2:] - boxes[..., :2]


@cache
def _units(std: Std, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The units on the device; made once, because a copy to the device is a wait."""
    with torch.inference_mode(mode=False):  # training could not use an inference tensor
        return torch.tensor(std, dtype=dtype).to(device)
