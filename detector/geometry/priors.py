"""The fixed reference boxes of every cell of the pyramid."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from detector.types import Priors


def make(
    canvas_hw: tuple[int, int],
    strides: Sequence[int],
    scales: Sequence[float],
    ratios: Sequence[float],
    anchoring: Literal["centre", "corner"],
) -> Priors:
    """Lay every scale with every ratio on every cell of every level.

    The order is level, row, column, ratio, scale. A level has ceil(canvas / stride) cells along an axis, as a chain of
    convolutions of stride 2 with padding has.

    Args:
        canvas_hw: Size of the network input.
        strides: Pixels of the canvas that a cell of each level spans.
        scales: Side of a square prior, in strides.
        ratios: Height over width, at equal area.
        anchoring: `centre` puts a prior at the middle of its cell. `corner` puts it at the cell's top-left corner, cuts
            its side to a whole number and rounds its corners to whole pixels: torchvision's `AnchorGenerator`, number
            for number, with its rule that cells are floor(canvas / cells) pixels apart.
    """
    levels: list[Tensor] = []
    for stride in strides:
        rows, columns = (math.ceil(side / stride) for side in canvas_hw)
        if anchoring == "centre":
            base = _boxes_around_zero([scale * stride for scale in scales], ratios)
            y = (torch.arange(rows, dtype=torch.float32) + 0.5) * stride
            x = (torch.arange(columns, dtype=torch.float32) + 0.5) * stride
        else:
            base = _boxes_around_zero([float(int(scale * stride)) for scale in scales], ratios).round()
            y = torch.arange(rows, dtype=torch.float32) * (canvas_hw[0] // rows)
            x = torch.arange(columns, dtype=torch.float32) * (canvas_hw[1] // columns)
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1)
        levels.append((shifts[:, :, None, :] + base).reshape(-1, 4))
    return Priors(boxes=torch.cat(levels), level_sizes=tuple(len(level) for level in levels))


def _boxes_around_zero(sides: Sequence[float], ratios: Sequence[float]) -> Float[Tensor, "k 4"]:
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    side = torch.tensor(sides, dtype=torch.float32)[None, :]
    # The reciprocal before the product, not side / root: it decides the last bit, and so where `round` goes.
    width, height = (1 / root * side).flatten(), (root * side).flatten()
    return torch.stack((-width, -height, width, height), dim=-1) / 2
