"""Where the trunk's features fan out to the branches, and the branches' gradients meet.

Forward hands the same features to every branch. Backward receives the branches' gradients separately, measures them,
lets the balancer weigh them, and sends one gradient down the trunk: measuring and balancing cost no second backward
pass through it. This is the feature-level form of multi-task balancing (Sener and Koltun 2018, section 3.3, MGDA-UB;
Liu et al. 2021, IMTL-G): exact where a rule asks for gradients of the shared features, an upper bound or approximation
where it was written for those of the trunk's weights (PCGrad, CAGrad).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from detector.train.balance import Balancer
from detector.train.distributed import World

_EPSILON = 1e-12


class Junction:
    """One fan-out with what was measured at it last."""

    def __init__(self, balancer: Balancer, *, num_branches: int, world: World, clip_norm: float = 0.0) -> None:
        self._balancer = balancer
        self._num_branches = num_branches
        self._world = world
        self._clip_norm = clip_norm
        self.gram: Tensor | None = None
        """Float32 [K, K], inner products of the branches' gradients over the images of all processes; None where
        nothing came back, as with a frozen trunk."""

    def fan_out(self, levels: Sequence[Tensor]) -> list[list[Tensor]]:
        """The features once for each branch."""
        self.gram = None
        copies = cast("tuple[Tensor, ...]", _FanOut.apply(self, self._num_branches, *levels))
        count = len(levels)
        return [list(copies[k * count : (k + 1) * count]) for k in range(self._num_branches)]

    def combine(self, gradients: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
        """One gradient for each level from those of each branch; a missing one is zero."""
        # Each process divides by its share of the count, so its gradients are `size` times what they add to the mean.
        gram = self._world.sum(inner_products(gradients)) / self._world.size**2
        self.gram = gram
        if not (self._clip_norm or self._balancer.acts_on_gradients):
            return [_sum(level) for level in zip(*gradients, strict=True)]
        factors = torch.ones_like(gram[0])
        if self._clip_norm:
            factors = (self._clip_norm / (gram.diagonal().clamp(min=0).sqrt() + _EPSILON)).clamp(max=1.0)
        coefficients = factors * self._balancer.combine(gram * factors[:, None] * factors)
        return [_sum(level, coefficients) for level in zip(*gradients, strict=True)]


class _FanOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, junction: Junction, num_branches: int, *levels: Tensor) -> tuple[Tensor, ...]:
        ctx.junction, ctx.num_branches = junction, num_branches
        # Zeros for a branch that sends nothing would be made, and read, for nothing.
        ctx.set_materialize_grads(False)
        return tuple(level.view_as(level) for _ in range(num_branches) for level in levels)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = len(gradients) // ctx.num_branches
        by_branch = [gradients[k * count : (k + 1) * count] for k in range(ctx.num_branches)]
        return None, None, *ctx.junction.combine(by_branch)


def inner_products(gradients: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Of the gradients of K branches, [B, F, h, w] a level, all levels together: float32 [K, K]."""
    some = next(g for branch in gradients for g in branch if g is not None)
    num = len(gradients)
    pairs = [(i, j) for i in range(num) for j in range(i + 1)]
    zero = torch.zeros((), device=some.device)
    products: list[Tensor] = []
    for level in zip(*gradients, strict=True):
        flat = [None if g is None else _flat(g) for g in level]
        for i, j in pairs:
            a, b = flat[i], flat[j]
            products.append(zero if a is None or b is None else torch.dot(a, b))
    sums = torch.stack(products).view(-1, len(pairs)).sum(dim=0).unbind()
    of = dict(zip(pairs, sums, strict=True))
    return torch.stack([of[max(i, j), min(i, j)] for i in range(num) for j in range(num)]).view(num, num)


def _flat(gradient: Tensor) -> Tensor:
    # Channels last, as it lies in memory: a view, not a copy.
    return gradient.permute(0, 2, 3, 1).reshape(-1).float()


def _sum(level: Sequence[Tensor | None], coefficients: Tensor | None = None) -> Tensor | None:
    total: Tensor | None = None
    for k, gradient in enumerate(level):
        if gradient is None:
            continue
        part = gradient if coefficients is None else gradient * coefficients[k].to(gradient.dtype)
        total = part if total is None else total + part
    return total
