"""Feature pyramid (Lin et al. 2017): every level gets the same width and the meaning of the levels above it."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from detector.model import precision
from detector.model.backbone import FIRST_LEVEL


class Pyramid(nn.Module):
    """Lateral 1x1 and output 3x3 convolutions over backbone levels; stride-2 convolutions make the levels beyond 5."""

    def __init__(
        self,
        backbone_widths: Sequence[int],
        *,
        first_level: int,
        last_level: int,
        width: int,
        extra_from: Literal["backbone", "pyramid"],
    ) -> None:
        super().__init__()
        used = backbone_widths[first_level - FIRST_LEVEL :]
        self._skipped = first_level - FIRST_LEVEL
        self._extra_from = extra_from
        self.strides = tuple(2**level for level in range(first_level, last_level + 1))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in used)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in used)
        first_extra = used[-1] if extra_from == "backbone" else width
        self.extra = nn.ModuleList(
            nn.Conv2d(first_extra if i == 0 else width, width, 3, stride=2, padding=1) for i in range(last_level - 5)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Features of levels 2 to 5 to maps of `first_level` to `last_level`, all of one width."""
        used = features[self._skipped :]
        merged: list[Tensor] = []
        for lateral, feature in zip(reversed(self.lateral), reversed(used), strict=True):
            x = lateral(feature)
            if merged:
                # Nearest: its backward pass is deterministic on every device, unlike bilinear.
                x = x + F.interpolate(merged[-1], size=x.shape[-2:], mode="nearest")
            merged.append(x)
        levels = [output(x) for output, x in zip(self.output, reversed(merged), strict=True)]
        top = used[-1] if self._extra_from == "backbone" else levels[-1]
        for i, extra in enumerate(self.extra):
            top = precision.in_float32(extra, top if i == 0 else F.relu(top))
            levels.append(top)
        return tuple(levels)
