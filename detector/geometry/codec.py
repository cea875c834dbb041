"""Box offsets: how the network writes a box relative to a prior (Girshick et al. 2014, appendix C)."""

import math

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
    cx, cy, w, h = box_math.xyxy_to_cxcywh(boxes).unbind(-1)
    prior_cx, prior_cy, prior_w, prior_h = box_math.xyxy_to_cxcywh(priors).unbind(-1)
    prior_w, prior_h = prior_w.clamp(min=_MIN_SIDE), prior_h.clamp(min=_MIN_SIDE)
    deltas = (
        (cx - prior_cx) / prior_w / std[0],
        (cy - prior_cy) / prior_h / std[1],
        (w.clamp(min=_MIN_SIDE) / prior_w).log() / std[2],
        (h.clamp(min=_MIN_SIDE) / prior_h).log() / std[3],
    )
    return torch.stack(deltas, dim=-1)


def decode(deltas: Float[Tensor, "*#n 4"], priors: Float[Tensor, "*#n 4"], std: Std) -> Float[Tensor, "*#n 4"]:
    """Boxes from offsets, the inverse of `encode`. Leading axes broadcast.

    A side grows by at most exp(`MAX_LOG_SIDE`) = 62.5; beyond, its gradient is zero. Not clipped to the canvas.
    """
    dx, dy, dw, dh = deltas.unbind(-1)
    prior_cx, prior_cy, prior_w, prior_h = box_math.xyxy_to_cxcywh(priors).unbind(-1)
    decoded = (
        prior_cx + dx * std[0] * prior_w,
        prior_cy + dy * std[1] * prior_h,
        prior_w * (dw * std[2]).clamp(max=MAX_LOG_SIDE).exp(),
        prior_h * (dh * std[3]).clamp(max=MAX_LOG_SIDE).exp(),
    )
    return box_math.cxcywh_to_xyxy(torch.stack(decoded, dim=-1))
