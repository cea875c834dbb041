"""Dense heads: a tower of convolutions and an output layer, shared by all pyramid levels."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.config import TowerConfig

MAX_GROUPS = 32  # as in Wu and He 2018
MIN_GROUP_WIDTH = 4  # channels; statistics of fewer are noise


class DenseHead(nn.Module):
    """Predicts `outputs` numbers for each of `priors_per_cell` priors of every cell.

    Weights are shared over levels, so the norm must not keep statistics of a level: GroupNorm (Wu and He 2018).
    """

    def __init__(self, in_channels: int, config: TowerConfig, *, outputs: int, priors_per_cell: int) -> None:
        super().__init__()
        self._outputs = outputs
        layers: list[nn.Module] = []
        channels = in_channels
        for _ in range(config.depth):
            layers.append(nn.Conv2d(channels, config.width, 3, padding=1, bias=config.norm == "none"))
            if config.norm == "group":
                layers.append(nn.GroupNorm(_num_groups(config.width), config.width))
            layers.append(nn.ReLU(inplace=True))
            channels = config.width
        self.tower = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels, priors_per_cell * outputs, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Tensor]) -> Float[Tensor, "b a outputs"]:
        """Maps [B, F, h, w] of all levels to one row a prior, in the order of `geometry.priors`."""
        return torch.cat([self._level(features) for features in levels], dim=1)

    def _level(self, features: Tensor) -> Tensor:
        x = self.output(self.tower(features))
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self._outputs)


def _num_groups(width: int) -> int:
    """Largest power of two that divides the width and leaves groups wide enough."""
    groups = math.gcd(MAX_GROUPS, width)
    while groups > 1 and width // groups < MIN_GROUP_WIDTH:
        groups //= 2
    return groups


def init_sigmoid_bias(head: DenseHead, class_prior: float) -> None:
    """Let every class start at `class_prior`: without it the many negatives swamp the first steps.

    Lin et al. 2017 (focal loss), section 4.1.
    """
    assert head.output.bias is not None
    nn.init.constant_(head.output.bias, math.log(class_prior / (1 - class_prior)))


def init_softmax_bias(head: DenseHead, class_prior: float, num_classes: int) -> None:
    """The same for softmax with background last: the classes together start at `class_prior`."""
    assert head.output.bias is not None
    background = math.log((1 - class_prior) * num_classes / class_prior)
    with torch.no_grad():
        rows = head.output.bias.view(-1, num_classes + 1)
        rows[:, :-1] = 0.0
        rows[:, -1] = background
