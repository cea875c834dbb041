"""ResNet trunk (He et al. 2016), from torchvision."""

from collections.abc import Callable
from functools import partial
from typing import assert_never, cast

import torchvision
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from detector.config import Backbone as BackboneName
from detector.config import TrunkNorm
from detector.model import precision
from detector.model.fold import Folded
from detector.model.recompute import recomputed

_GROUPS = 32  # as in Wu and He 2018
FIRST_LEVEL = 2  # the level of layer1's output: stride 4


class Backbone(nn.Module):
    """ResNet without its classifier; returns the features of levels 2 to 5.

    The parts keep torchvision's names, so that its state dicts load without renaming. Norms that are still, frozen or
    in evaluation mode, cost nothing: see `fold`.
    """

    def __init__(self, name: BackboneName, *, norm: TrunkNorm, frozen_stages: int, recompute: bool = False) -> None:
        super().__init__()
        self._recompute = recompute  # the activations of a layer in the backward pass
        network = _resnet(name, _norm(norm))
        self.conv1 = network.conv1
        self.bn1 = network.bn1
        self.relu = network.relu
        self.maxpool = network.maxpool
        self.layer1 = network.layer1
        self.layer2 = network.layer2
        self.layer3 = network.layer3
        self.layer4 = network.layer4
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        expansion = 1 if isinstance(network.layer1[0], BasicBlock) else 4
        self.widths: tuple[int, ...] = tuple(width * expansion for width in (64, 128, 256, 512))
        """Channels of levels 2 to 5."""
        stages = ((self.conv1, self.bn1), *((layer,) for layer in layers))
        self.frozen: tuple[nn.Module, ...] = tuple(part for stage in stages[:frozen_stages] for part in stage)
        """Parts that never learn."""
        self.hold_frozen()

    def hold_frozen(self) -> None:
        """Keep the frozen parts from learning, after others were told to learn."""
        for part in self.frozen:
            part.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> "Backbone":
        """As `nn.Module.train`; a frozen part keeps the statistics of its norms too."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        folded = Folded(self.modules())
        x = self.maxpool(self.relu(folded.conv(self.conv1, self.bn1, images)))
        c2 = self._run(self.layer1, folded, x)
        c3 = self._halve(self.layer2, folded, c2)
        c4 = self._halve(self.layer3, folded, c3)
        return c2, c3, c4, self._halve(self.layer4, folded, c4)

    def _halve(self, layer: nn.Sequential, folded: Folded, x: Tensor) -> Tensor:
        """Run a layer that begins with stride 2."""
        if x.shape[-1] <= precision.NARROW:
            return precision.in_float32(partial(self._run, layer, folded), x)
        return self._run(layer, folded, x)

    def _run(self, layer: nn.Sequential, folded: Folded, x: Tensor) -> Tensor:
        if self._recompute:
            return recomputed(layer, _layer, layer, folded, x)
        return _layer(layer, folded, x)


def _layer(layer: nn.Sequential, folded: Folded, x: Tensor) -> Tensor:
    for block in layer:
        assert isinstance(block, BasicBlock | Bottleneck)
        x = _block(block, folded, x)
    return x


def _block(block: BasicBlock | Bottleneck, folded: Folded, x: Tensor) -> Tensor:
    """The block's own forward pass with its norms folded."""
    out = F.relu(folded.conv(block.conv1, block.bn1, x), inplace=True)
    out = folded.conv(block.conv2, block.bn2, out)
    if isinstance(block, Bottleneck):
        out = folded.conv(block.conv3, block.bn3, F.relu(out, inplace=True))
    if block.downsample is not None:
        conv, norm = cast("nn.Sequential", block.downsample)
        assert isinstance(conv, nn.Conv2d)
        x = folded.conv(conv, norm, x)
    return F.relu(out.add_(x), inplace=True)


def _norm(kind: TrunkNorm) -> Callable[..., nn.Module]:
    match kind:
        case "frozen":
            return FrozenBatchNorm2d
        case "batch":
            return nn.BatchNorm2d
        case "sync":
            return nn.SyncBatchNorm
        case "group":
            return partial(nn.GroupNorm, _GROUPS)
        case _:
            assert_never(kind)


def _resnet(name: BackboneName, norm_layer: Callable[..., nn.Module]) -> torchvision.models.ResNet:
    match name:
        case "resnet18":
            return torchvision.models.resnet18(norm_layer=norm_layer)
        case "resnet34":
            return torchvision.models.resnet34(norm_layer=norm_layer)
        case "resnet50":
            return torchvision.models.resnet50(norm_layer=norm_layer)
        case "resnet101":
            return torchvision.models.resnet101(norm_layer=norm_layer)
        case _:
            assert_never(name)
