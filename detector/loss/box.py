"""Box losses: sums over the priors of a mask; the caller divides.

What lies outside the mask may be anything, NaN too: it is cut off before the arithmetic, so its gradient is zero.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from detector.geometry import boxes


def smooth_l1(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"], mask: Bool[Tensor, "*n"], *, beta: float
) -> Float[Tensor, ""]:
    """Smooth L1 of box offsets (Girshick 2015, eq. 3), summed over the four: d**2 / (2 beta) below beta, L1 above."""
    outside = ~mask[..., None]
    return F.smooth_l1_loss(
        predicted.masked_fill(outside, 0.0), target.masked_fill(outside, 0.0), reduction="sum", beta=beta
    )


def giou(
    predicted: Float[Tensor, "*n 4"], target: Float[Tensor, "*n 4"], mask: Bool[Tensor, "*n"]
) -> Float[Tensor, ""]:
    """1 - GIoU of xyxy boxes (Rezatofighi et al. 2019)."""
    outside = ~mask[..., None]
    score = boxes.giou(predicted.masked_fill(outside, 0.0), target.masked_fill(outside, 0.0))
    return (1 - score).masked_fill(~mask, 0.0).sum()
