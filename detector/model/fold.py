"""A norm with fixed statistics is a part of the convolution before it.

What it does to each channel, x * scale + shift, goes into the weight and the bias at run time: exact but for rounding,
without a pass over the map, and with the gradients of the raw weight and of the norm. The state dict stays as it is.
"""

from collections.abc import Iterable
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

_Norm = FrozenBatchNorm2d | nn.BatchNorm2d | nn.SyncBatchNorm


class Folded:
    """Scale and shift of every still norm, computed for all of them in a few operations."""

    def __init__(self, norms: Iterable[nn.Module]) -> None:
        self._affine: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        alike: dict[tuple[float, bool], list[_Norm]] = {}
        for norm in norms:
            if _is_still(norm):
                # Apart by whether they learn: the gradient of one must not draw the others into the graph.
                alike.setdefault((norm.eps, _weight(norm).requires_grad), []).append(norm)
        for (eps, _), group in alike.items():
            self._affine |= _affine(group, eps)

    def conv(self, conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
        """`norm(conv(x))`, for a convolution without a bias."""
        if norm not in self._affine:
            return norm(conv(x))
        scale, shift = self._affine[norm]
        assert conv.bias is None
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


def _is_still(norm: nn.Module) -> TypeGuard[_Norm]:
    return isinstance(norm, FrozenBatchNorm2d) or (
        isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and not norm.training
    )


def _affine(norms: list[_Norm], eps: float) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    widths = [len(_weight(norm)) for norm in norms]
    weight, bias, mean, var = (
        torch.cat([getattr(norm, name) for norm in norms]) for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight * (var + eps).rsqrt()
    shift = bias - mean * scale
    scales, shifts = (cast("tuple[Tensor, ...]", parts.split(widths)) for parts in (scale, shift))
    return dict(zip(norms, zip(scales, shifts, strict=True), strict=True))


def _weight(norm: _Norm) -> Tensor:
    return cast("Tensor", norm.weight)
