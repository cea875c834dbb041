"""Which floating-point type the convolutions run in."""

import platform
import time
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from detector import files

_KIND = "precision-trials"
_PROBE_ROUNDS = 7
NARROW = 2
"""Cells: an input of a convolution of stride 2 that is no wider needs `in_float32`."""
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


def of_name(name: str) -> torch.dtype:
    """The type that a file of ours names.

    Raises:
        KeyError: none of those that `resolve` gives is called so.
    """
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype, *, cache_enabled: bool = True) -> torch.autocast:
    """A context in which the network runs in `dtype`; float32 changes nothing."""
    low = dtype != torch.float32
    return torch.autocast(device.type, dtype if low else None, enabled=low, cache_enabled=cache_enabled)


def in_float32(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`layer(x)`, on the CPU without autocast; the result has the type of `x`."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return layer(x)
    # In bfloat16, oneDNN (torch 2.15) leaves parts of a 3x3 convolution of stride 2 uninitialised: its weight gradient
    # when its input is one cell wide, and on processors with AMX its output when that is one cell wide.
    with torch.autocast("cpu", enabled=False):
        return layer(x.float()).to(x.dtype)


@cache
def cpu_prefers_bfloat16() -> bool:
    """Whether bfloat16 is worth it on this machine, as `remember` wrote it down, or measured once a process."""
    answer = files.remembered(_KIND, _facts()).get("bfloat16")
    return answer if isinstance(answer, bool) else _bfloat16_is_faster()


def remember() -> None:
    """Write the answer into the cache folder: measured anew on a busy machine, equal runs might differ."""
    facts = _facts()
    if not files.remembered(_KIND, facts):
        files.remember(_KIND, facts, {"bfloat16": cpu_prefers_bfloat16()})


def _facts() -> tuple[object, ...]:
    """What the answer depends on."""
    return platform.node(), platform.processor(), torch.__version__, torch.get_num_threads()


def _bfloat16_is_faster() -> bool:
    """Time a convolution with its backward pass in both types.

    Never assumed from the processor's name: without the right instructions, and in some releases with them,
    bfloat16 convolutions are many times slower than float32.
    """
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    # In turns, and the best of several: whatever else runs on the machine then disturbs both alike.
    for _ in range(_PROBE_ROUNDS):
        for dtype in best:
            best[dtype] = min(best[dtype], _step_seconds(dtype))
    return best[torch.float32] > WORTH_IT * best[torch.bfloat16]


def _step_seconds(dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(mode=False), torch.enable_grad():  # the caller may have switched gradients off
        x = torch.randn(2, 64, 32, 32, generator=generator).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(64, 64, 3, 3, generator=generator).to(dtype, memory_format=torch.channels_last)
        weight.requires_grad_()
        start = time.perf_counter()
        F.conv2d(x, weight, padding=1).sum().backward()
        return time.perf_counter() - start
