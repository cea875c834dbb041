"""Heads forward and backward one after another, so that only one piece's activations live at a time.

A group of heads with its losses becomes one autograd function. Its forward runs the heads over one piece of the
features after another, takes the gradients of each piece at once and frees its activations; its backward only scales
what was kept. From outside it is still one forward and one backward, so the trunk, gradient accumulation, autocast and
DistributedDataParallel need to know nothing of it (Gloeckle et al. 2024, "Better and faster large language models via
multi-token prediction", figure 2, which runs heads so by hand).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from detector.errors import DetectorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some levels of some images."""

    images: slice
    levels: tuple[int, ...]
    rows: slice  # the priors of these levels


Compute = Callable[[Piece, Sequence[Sequence[Tensor]]], tuple[Tensor, Tensor]]
"""From a piece and the features of its levels for each branch to the scalar to differentiate and the loss terms."""


def whole(level_sizes: Sequence[int]) -> Piece:
    """Everything at once."""
    return Piece(images=slice(None), levels=tuple(range(len(level_sizes))), rows=slice(0, sum(level_sizes)))


def cut(level_sizes: Sequence[int], level_cells: Sequence[int], *, num_images: int, max_cells: int) -> list[Piece]:
    """Level after level, and of each as many images at a time as stay within `max_cells` cells, at least one."""
    pieces: list[Piece] = []
    start = 0
    for level, (size, cells) in enumerate(zip(level_sizes, level_cells, strict=True)):
        step = max(1, min(num_images, max_cells // cells))
        pieces += [
            Piece(images=slice(first, first + step), levels=(level,), rows=slice(start, start + size))
            for first in range(0, num_images, step)
        ]
        start += size
    return pieces


def run(
    compute: Compute, pieces: Sequence[Piece], branches: Sequence[Sequence[Tensor]], parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The sum of `compute` over the pieces, differentiable once, and the summed terms, without gradient.

    Args:
        compute: Must add up over the pieces.
        pieces: Cover the features.
        branches: Features [B, F, h, w] of every level, for each branch.
        parameters: Everything else that `compute` reads and that is to get a gradient.
    """
    levels = [level for branch in branches for level in branch]
    value, terms = cast(
        "tuple[Tensor, Tensor]", _RunPieces.apply(compute, pieces, len(branches), len(levels), *levels, *parameters)
    )
    return value, terms


class _RunPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compute: Compute, pieces: Sequence[Piece], num_branches: int, num_levels: int, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        needed = ctx.needs_input_grad[4:]
        kept: list[Tensor | None] = [
            torch.zeros_like(tensor) if need and i < num_levels else None
            for i, (tensor, need) in enumerate(zip(tensors, needed, strict=True))
        ]
        per_branch = num_levels // num_branches
        total: Tensor | None = None
        terms: Tensor | None = None
        for piece in pieces:
            index = [k * per_branch + level for k in range(num_branches) for level in piece.levels]
            leaves = [tensors[i][piece.images].detach().requires_grad_(needed[i]) for i in index]
            count = len(piece.levels)
            with torch.enable_grad():
                value, found = compute(piece, [leaves[k * count : (k + 1) * count] for k in range(num_branches)])
            wanted = [*zip(index, leaves, strict=True), *enumerate(tensors[num_levels:], num_levels)]
            _keep(kept, value, [(i, tensor) for i, tensor in wanted if needed[i]], piece, num_levels)
            total = value.detach() if total is None else total + value.detach()
            terms = found.detach() if terms is None else terms + found.detach()
        assert total is not None
        assert terms is not None
        ctx.is_kept = [tensor is not None for tensor in kept]
        ctx.save_for_backward(*(tensor for tensor in kept if tensor is not None))
        ctx.used = False
        ctx.mark_non_differentiable(terms)
        return total, terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.used:
            raise DetectorError("sequential heads can be differentiated once: their gradients are scaled in place")
        ctx.used = True
        # In place: a second copy of the features' gradients would be a good part of what was saved.
        kept = iter([tensor.mul_(factor) for tensor in ctx.saved_tensors])
        return None, None, None, None, *(next(kept) if is_kept else None for is_kept in ctx.is_kept)


def _keep(
    kept: list[Tensor | None], value: Tensor, inputs: Sequence[tuple[int, Tensor]], piece: Piece, num_levels: int
) -> None:
    """Add the gradients of one piece; the graph behind `value` is freed."""
    if not value.requires_grad or not inputs:
        return
    # Where no prior of a level is positive, a box head is not reached at all: allow_unused, and zeros stay.
    gradients = torch.autograd.grad(value, [tensor for _, tensor in inputs], allow_unused=True)
    for (i, _), gradient in zip(inputs, cast("Sequence[Tensor | None]", gradients), strict=True):
        held = kept[i]
        if gradient is None:
            continue
        if i < num_levels:
            assert held is not None
            held[piece.images].copy_(gradient)
        elif held is None:
            kept[i] = gradient.clone()  # it may be shared, and will be added to
        else:
            held.add_(gradient)
