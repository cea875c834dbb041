"""The network as a whole: uint8 images in, raw predictions of all heads out."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from detector.config import HeadConfig, RunConfig, num_logits
from detector.model import heads
from detector.model.backbone import Backbone
from detector.model.head_set import HeadSet
from detector.model.heads import DenseHead, HeadShape
from detector.model.neck import PooledNeck, PyramidNeck
from detector.types import Prediction, Preprocess, Priors


class DetectionModel(nn.Module):
    """Trunk (backbone and neck) feeding the heads."""

    def __init__(
        self, *, backbone: Backbone, neck: PyramidNeck | PooledNeck, heads: HeadSet, preprocess: Preprocess
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.heads = heads
        self._priors: dict[tuple[int, int, torch.device], Priors] = {}
        # Not part of the state dict: they belong to the preprocess contract, which the model file keeps by itself.
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", 255 * torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", 255 * torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Prediction:
        """RGB canvases as the loader makes them; normalisation happens here, on the device."""
        priors = self.priors((images.shape[2], images.shape[3]))
        return self.heads(self.trunk(self.normalise(images)), priors.boxes)

    def normalise(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        x = (images.to(self._mean.dtype) - self._mean) / self._std
        return x.contiguous(memory_format=torch.channels_last)

    def trunk(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        return self.neck(self.backbone(images))

    def priors(self, canvas_hw: tuple[int, int]) -> Priors:
        """Priors of a canvas size, on the model's device; computed once."""
        device = self._mean.device
        key = (*canvas_hw, device)
        if key not in self._priors:
            made = self.neck.priors(canvas_hw)
            self._priors[key] = Priors(boxes=made.boxes.to(device), level_sizes=made.level_sizes)
        return self._priors[key]


def build(config: RunConfig, *, num_classes: int, preprocess: Preprocess) -> DetectionModel:
    """A model with random weights; torch's global generator decides which.

    Raises:
        ConfigError: a custom head cannot be had, or a head has a name that torch keeps to itself.
    """
    model = config.model
    recompute = config.memory.checkpoint
    backbone = Backbone(
        model.backbone,
        norm=model.norm,
        frozen_stages=model.frozen_stages,
        recompute=recompute in ("trunk", "all"),
    )
    neck = PooledNeck(backbone.widths) if model.neck == "pool" else PyramidNeck(backbone.widths, model)
    made: dict[str, DenseHead] = {}
    for head in model.heads:
        upstream = made[head.input].width if head.input in made else 0
        shape = HeadShape(
            in_channels=neck.width,
            upstream_channels=upstream,
            priors_per_cell=neck.priors_per_cell,
            kernel=1 if model.neck == "pool" else 3,
        )
        made[head.name] = _head(head, shape, config, num_classes)
        heads.require_no_batch_norm(made[head.name], head.name)
    head_set = HeadSet(
        [(head, made[head.name]) for head in model.heads],
        detach_cascade=model.cascade_gradient == "detach",
        delta_std=model.delta_std,
        recompute=recompute in ("heads", "all"),
    )
    detector = DetectionModel(backbone=backbone, neck=neck, heads=head_set, preprocess=preprocess)
    return detector.to(memory_format=torch.channels_last)


def misfit(config: RunConfig, *, num_classes: int, preprocess: Preprocess, state: Mapping[str, Tensor]) -> str | None:
    """Why a state is not that of such a model, found without the memory for one: the settings may be a stranger's.

    Raises:
        ConfigError: as `build`.
    """
    if any(head.kind == "custom" for head in config.model.heads):
        return None  # code that the user has imported, and that may not be made for tensors without data
    with torch.device("meta"):
        wanted = build(config, num_classes=num_classes, preprocess=preprocess).state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        is_, ought = _form(state.get(name)), _form(wanted.get(name))
        if is_ != ought:
            return f"{name} is {is_}, wanted is {ought}"
    return None


def _form(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _head(head: HeadConfig, shape: HeadShape, config: RunConfig, num_classes: int) -> DenseHead:
    match head.kind:
        case "classification":
            outputs = num_logits(config, num_classes)
            return DenseHead(shape, head.tower, outputs=outputs, bias=_class_bias(config, num_classes))
        case "box":
            return DenseHead(shape, head.tower, outputs=4)
        case "quality":
            return DenseHead(shape, head.tower, outputs=1)
        case "custom":
            assert head.factory is not None
            return heads.custom_class(head.factory)(shape, head.tower)


def _class_bias(config: RunConfig, num_classes: int) -> list[float] | None:
    match config.loss.classification:
        case "categorical":
            return None
        case "softmax":
            return heads.softmax_bias(num_classes, config.model.class_prior)
        case "sigmoid" | "focal" | "quality":
            return heads.sigmoid_bias(num_classes, config.model.class_prior)
