"""Activation checkpointing: parts that run once more instead of being remembered (Chen et al. 2016)."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import ParamSpec, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

P = ParamSpec("P")
R = TypeVar("R")


def recomputed(part: nn.Module, function: Callable[P, R], *inputs: P.args, **named: P.kwargs) -> R:
    """`function(*inputs)`, keeping its inputs alone; the backward pass runs it again. Its gradients are the same.

    Args:
        part: Whose norms take in the batch's statistics the first time only.
        function: Runs `part`.
        inputs: Of the function.
        named: The same, by name.
    """
    if not torch.is_grad_enabled():
        return function(*inputs, **named)
    contexts = partial(_contexts, part)
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts, **named)


def _contexts(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_held(part)


@contextmanager
def _statistics_held(part: nn.Module) -> Generator[None]:
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not without running statistics: then the norm would save other tensors than the first time.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
