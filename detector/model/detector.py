"""The network as a whole: uint8 images in, raw predictions of both heads out."""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from detector.config import RunConfig, num_logits
from detector.geometry import priors as prior_math
from detector.model import heads
from detector.model.backbone import Backbone
from detector.model.heads import DenseHead
from detector.model.pyramid import Pyramid
from detector.types import Prediction, Preprocess, Priors


class DetectionModel(nn.Module):
    """Trunk (backbone and pyramid) feeding a classification head and a box head."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        pyramid: Pyramid,
        classification: DenseHead,
        box: DenseHead,
        preprocess: Preprocess,
        scales: tuple[float, ...],
        ratios: tuple[float, ...],
        anchoring: Literal["centre", "corner"],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.classification = classification
        self.box = box
        self._scales = scales
        self._ratios = ratios
        self._anchoring: Literal["centre", "corner"] = anchoring
        self._priors: dict[tuple[int, int, torch.device], Priors] = {}
        # Not part of the state dict: they belong to the preprocess contract, which the model file keeps by itself.
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", 255 * torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", 255 * torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Prediction:
        """RGB canvases as the loader makes them; normalisation happens here, on the device."""
        return self.predict(self.trunk(self.normalise(images)))

    def normalise(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        x = (images.to(self._mean.dtype) - self._mean) / self._std
        return x.contiguous(memory_format=torch.channels_last)

    def trunk(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        return self.pyramid(self.backbone(images))

    def predict(self, levels: tuple[Tensor, ...]) -> Prediction:
        return Prediction(logits=self.classification(levels), deltas=self.box(levels))

    def priors(self, canvas_hw: tuple[int, int]) -> Priors:
        """Priors of a canvas size, on the model's device; computed once."""
        device = self._mean.device
        key = (*canvas_hw, device)
        if key not in self._priors:
            made = prior_math.make(
                canvas_hw, self.pyramid.strides, self._scales, self._ratios, anchoring=self._anchoring
            )
            self._priors[key] = Priors(boxes=made.boxes.to(device), level_sizes=made.level_sizes)
        return self._priors[key]


def build(config: RunConfig, *, num_classes: int, preprocess: Preprocess) -> DetectionModel:
    """A model with random weights; torch's global generator decides which."""
    model = config.model
    backbone = Backbone(model.backbone, batch_norm=model.batch_norm, frozen_stages=model.frozen_stages)
    pyramid = Pyramid(
        backbone.widths,
        first_level=model.pyramid.first_level,
        last_level=model.pyramid.last_level,
        width=model.pyramid.width,
        extra_from=model.pyramid.extra_from,
    )
    per_cell = len(model.priors.scales) * len(model.priors.ratios)
    classification = DenseHead(
        model.pyramid.width,
        model.classification,
        outputs=num_logits(config, num_classes),
        priors_per_cell=per_cell,
    )
    if config.loss.classification == "softmax":
        heads.init_softmax_bias(classification, model.class_prior, num_classes)
    else:
        heads.init_sigmoid_bias(classification, model.class_prior)
    detector = DetectionModel(
        backbone=backbone,
        pyramid=pyramid,
        classification=classification,
        box=DenseHead(model.pyramid.width, model.box, outputs=4, priors_per_cell=per_cell),
        preprocess=preprocess,
        scales=model.priors.scales,
        ratios=model.priors.ratios,
        anchoring=model.priors.anchoring,
    )
    return detector.to(memory_format=torch.channels_last)
