"""Dense heads: a tower of convolutions and an output layer, shared by all pyramid levels."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.config import TowerConfig
from detector.errors import ConfigError
from detector.types import PriorTargets

MAX_GROUPS = 32  # as in Wu and He 2018
MIN_GROUP_WIDTH = 4  # channels; statistics of fewer are noise


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """What a head is told by its surroundings."""

    in_channels: int
    upstream_channels: int  # of the head it reads; 0 for one that reads the trunk alone
    priors_per_cell: int
    kernel: int = 3  # of the output layer; 1 makes it fully connected on pooled features


class DenseHead(nn.Module):
    """Predicts `outputs` numbers for each prior of every cell.

    Weights are shared over levels, so the norm must not keep statistics of a level: GroupNorm (Wu and He 2018). A head
    that reads another one takes the concatenation of the trunk's features and that head's, through a 1x1 convolution.
    """

    def __init__(
        self, shape: HeadShape, config: TowerConfig, *, outputs: int, bias: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self._outputs = outputs
        self._bias = [0.0] * outputs if bias is None else list(bias)
        self.width = config.width if config.depth else shape.in_channels
        """Channels of the features that a head further on may read."""
        wide = shape.in_channels + shape.upstream_channels
        self.merge = nn.Conv2d(wide, shape.in_channels, 1) if shape.upstream_channels else None
        layers: list[nn.Module] = []
        channels = shape.in_channels
        for _ in range(config.depth):
            layers.append(nn.Conv2d(channels, config.width, 3, padding=1, bias=config.norm == "none"))
            if config.norm == "group":
                layers.append(nn.GroupNorm(_num_groups(config.width), config.width))
            layers.append(nn.ReLU(inplace=True))
            channels = config.width
        self.tower = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels, shape.priors_per_cell * outputs, shape.kernel, padding=shape.kernel // 2)
        self.reset()

    def reset(self) -> None:
        """New random weights for all layers, those that a subclass adds too."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif module is not self and callable(restart := getattr(module, "reset_parameters", None)):
                restart()
        if self.merge is not None:
            nn.init.kaiming_uniform_(self.merge.weight, a=1)
        assert self.output.bias is not None
        with torch.no_grad():
            self.output.bias.view(-1, self._outputs).copy_(torch.tensor(self._bias))

    def forward(
        self, features: Float[Tensor, "b f h w"], upstream: Float[Tensor, "b g h w"] | None = None
    ) -> tuple[Float[Tensor, "b n outputs"], Float[Tensor, "b t h w"]]:
        """One level: a row for each prior, in the order of `geometry.priors`, and the tower's features."""
        if self.merge is not None:
            assert upstream is not None
            features = self.merge(torch.cat((features, upstream), dim=1))
        tower = self.tower(features)
        x = self.output(tower)
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self._outputs), tower


class CustomHead(DenseHead):
    """A head of your own: say how many numbers it predicts for each prior and what they are to be.

    It is one class in a module of yours and one entry in `model.heads`:
    `{name: NAME, kind: custom, factory: "MODULE:CLASS"}`. `docs/multi-head.md` has a worked example.
    """

    outputs: ClassVar[int] = 1

    def __init__(self, shape: HeadShape, config: TowerConfig) -> None:
        super().__init__(shape, config, outputs=type(self).outputs)

    def loss(self, rows: Tensor, targets: PriorTargets, found: Tensor) -> Tensor:
        """Sum over priors, in float32; the engine divides by the count of positives and applies the head's weight.

        Called for all priors at once or for pieces of them, so it must be a sum of what each prior adds.

        Args:
            rows: Float32 [b, n, outputs], what this head says of n priors in b images.
            targets: What is wanted of the same priors.
            found: Float32 [b, n, 4], the boxes that the box head finds there, without gradient.
        """
        raise ConfigError(
            f"{type(self).__module__}:{type(self).__name__} has no loss; define loss(self, rows, targets, found)"
        )

    def score_factor(self, rows: Tensor) -> Tensor | None:
        """Of [b, n] in [0, 1], to be multiplied into the scores of the same priors; None leaves them alone."""
        del rows
        return None


def custom_class(factory: str) -> type[CustomHead]:
    """The class that `module:Class` names, in a module that was imported before.

    A configuration travels inside model files, so it must not be able to import, and thereby run, anything.

    Raises:
        ConfigError: the module was not imported, or the name is no `CustomHead`.
    """
    module, colon, name = factory.partition(":")
    if not colon:
        raise ConfigError(f"the head {factory!r} is not named as module:Class")
    if module not in sys.modules:
        raise ConfigError(
            f"the head {factory!r} is of a module that was not imported; add --import {module or 'MODULE'}"
        )
    found = vars(sys.modules[module]).get(name)  # `getattr` would ask a module that loads its parts when asked
    if not (isinstance(found, type) and issubclass(found, CustomHead)):
        raise ConfigError(f"the head {factory!r}: {module} has no class {name!r} derived from CustomHead")
    return found


def require_no_batch_norm(head: nn.Module, name: str) -> None:
    """Heads run on one level and a few images at a time, and some of them twice: no statistics of a batch fit.

    Raises:
        ConfigError: the head holds one.
    """
    for path, module in cast("Iterable[tuple[str, nn.Module]]", head.named_modules()):
        # torch's own name for all of them, those of another number of dimensions and lazy ones too
        is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]
        if is_batch_norm or getattr(module, "track_running_stats", False):
            raise ConfigError(f"model.heads.{name}: {path} is a {type(module).__name__}; use nn.GroupNorm in heads")


def _num_groups(width: int) -> int:
    """Largest power of two that divides the width and leaves groups wide enough."""
    groups = math.gcd(MAX_GROUPS, width)
    while groups > 1 and width // groups < MIN_GROUP_WIDTH:
        groups //= 2
    return groups


def sigmoid_bias(num_classes: int, class_prior: float) -> list[float]:
    """Lets every class start at `class_prior`: without it the many negatives swamp the first steps.

    Lin et al. 2017 (focal loss), section 4.1.
    """
    return [math.log(class_prior / (1 - class_prior))] * num_classes


def softmax_bias(num_classes: int, class_prior: float) -> list[float]:
    """The same for softmax with background last: the classes together start at `class_prior`."""
    return [0.0] * num_classes + [math.log((1 - class_prior) * num_classes / class_prior)]
