"""The processes that train one model together, as a value: one process on a laptop."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among its equals."""

    rank: int = 0
    size: int = 1

    def sum(self, x: Tensor) -> Tensor:
        """Sum over all processes, every one of which must call it; without gradient."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def mean(self, x: Tensor) -> Tensor:
        """Mean over all processes, likewise."""
        return x if self.size == 1 else self.sum(x) / self.size
