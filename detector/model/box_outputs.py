"""Box outputs of one network for the priors and units of another."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.config import ModelConfig
from detector.geometry import codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Offsets:
    """What the outputs of a box head count in."""

    std: codec.Std
    """Units of (dx, dy, dw, dh)."""
    priors_wh: tuple[tuple[float, float], ...]
    """Width and height of each prior of a cell, in strides, in the order of the outputs."""


def of_model(config: ModelConfig) -> Offsets:
    if config.neck == "pool":
        return Offsets(std=config.delta_std, priors_wh=((1.0, 1.0),))  # the canvas, whatever its size
    return Offsets(std=config.delta_std, priors_wh=laid_out(config.priors.scales, config.priors.ratios))


def laid_out(scales: tuple[float, ...], ratios: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """Widths and heights in the order of `geometry.priors`: each ratio (height over width) with each scale."""
    return tuple((scale / math.sqrt(ratio), scale * math.sqrt(ratio)) for ratio in ratios for scale in scales)


def rewritten(rows: Tensor, theirs: Offsets, ours: Offsets, *, refines: bool) -> Tensor:
    """Rows of an output layer, so that the same features give the same boxes.

    With x = p_x + p_w std dx and w = p_w exp(std dw), a prior that is larger by a factor takes smaller shifts, and less
    growth by a constant.

    Args:
        rows: Weights [4 k, ...] or biases [4 k] of their network, prior by prior.
        theirs: What these count in.
        ours: What they shall count in; as many priors.
        refines: Whether the head counts from boxes that another head found, which are alike in both.
    """
    if theirs == ours:
        return rows
    sizes = torch.tensor(theirs.priors_wh) / torch.tensor(ours.priors_wh)  # [k, 2]
    sides = torch.ones_like(sizes) if refines else sizes
    units = torch.tensor(theirs.std) / torch.tensor(ours.std)
    factors = (units * torch.cat((sides, torch.ones_like(sides)), dim=1)).flatten()
    moved = rows.float() * factors.view(-1, *[1] * (rows.ndim - 1))
    if rows.ndim == 1:
        growth = sides.log() / torch.tensor(ours.std)[2:]
        moved = moved + torch.cat((torch.zeros_like(growth), growth), dim=1).flatten()
    return moved
