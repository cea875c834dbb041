"""The learning rate under another batch size."""

import math
from typing import Literal

LINEAR_UP_TO = 64
"""Images of a batch; beyond, a rate of SGD that grows with it is too high."""


def lr_factor(optimizer: Literal["adamw", "sgd"], size: int, usual: int) -> float:
    """What the rate for batches of `usual` images is multiplied by for batches of `size`.

    AdamW: by the square root (Malladi et al. 2022). SGD: linear (Goyal et al. 2017), beyond 64 images by the root.
    """
    if optimizer == "adamw":
        return math.sqrt(size / usual)
    return _linear(size) / _linear(usual)


def _linear(size: int) -> float:
    return size if size <= LINEAR_UP_TO else math.sqrt(size * LINEAR_UP_TO)
