"""Which floating-point type the convolutions run in."""

import time
from functools import cache
from typing import Literal

import torch
from torch.nn import functional as F

WORTH_IT = 1.15  # bfloat16 must be at least this much faster to be worth its rounding


def resolve(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The type to autocast to; float32 means no autocast."""
    match precision:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case _:
            if device.type == "cuda":
                return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
            return torch.bfloat16 if cpu_prefers_bfloat16() else torch.float32


@cache
def cpu_prefers_bfloat16() -> bool:
    """Time a convolution with its backward pass in both types, once a process.

    Never assumed from the processor's name: without the right instructions, and in some releases with them,
    bfloat16 convolutions are many times slower than float32.
    """
    return _step_seconds(torch.float32) > WORTH_IT * _step_seconds(torch.bfloat16)


def _step_seconds(dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 32, 32, generator=generator).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, generator=generator).to(dtype, memory_format=torch.channels_last)
    weight.requires_grad_()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        F.conv2d(x, weight, padding=1).sum().backward()
        best = min(best, time.perf_counter() - start)
    return best
