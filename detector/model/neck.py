"""What stands between the backbone and the heads."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from detector.config import ModelConfig
from detector.geometry import priors as prior_math
from detector.model.pyramid import Pyramid
from detector.types import Priors


class PyramidNeck(Pyramid):
    """A feature pyramid with its grid of priors."""

    def __init__(self, backbone_widths: Sequence[int], config: ModelConfig) -> None:
        super().__init__(
            backbone_widths,
            first_level=config.pyramid.first_level,
            last_level=config.pyramid.last_level,
            width=config.pyramid.width,
            extra_from=config.pyramid.extra_from,
        )
        self.width = config.pyramid.width
        self.priors_per_cell = len(config.priors.scales) * len(config.priors.ratios)
        self._scales = config.priors.scales
        self._ratios = config.priors.ratios
        self._anchoring: Literal["centre", "corner"] = config.priors.anchoring

    def priors(self, canvas_hw: tuple[int, int]) -> Priors:
        return prior_math.make(canvas_hw, self.strides, self._scales, self._ratios, anchoring=self._anchoring)


class PooledNeck(nn.Module):
    """The mean of the last features over the image: one cell, whose prior is the whole canvas.

    With one fully connected layer a head this is the single-object localizer (Sermanet et al. 2014,
    OverFeat, section 4; global pooling as in He et al. 2016).
    """

    def __init__(self, backbone_widths: Sequence[int]) -> None:
        super().__init__()
        self.width = backbone_widths[-1]
        self.priors_per_cell = 1

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (features[-1].mean(dim=(2, 3), keepdim=True),)

    def priors(self, canvas_hw: tuple[int, int]) -> Priors:
        height, width = canvas_hw
        return Priors(boxes=torch.tensor([[0.0, 0.0, width, height]]), level_sizes=(1,))
