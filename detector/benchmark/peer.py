"""torchvision's RetinaNet and ours with the same weights and the same inputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detector import config_file, recipes
from detector.benchmark.heads import Settings as BatchSettings
from detector.benchmark.heads import synthetic_batch
from detector.config import RunConfig
from detector.geometry import boxes as box_math
from detector.model import state_names
from detector.model.detector import DetectionModel, build
from detector.model.model_file import TrainedModel
from detector.types import Batch, LabelMap, Preprocess

NUM_CLASSES = 91  # as torchvision has it
MULTIPLE = 32  # torchvision pads images to it
_MIN_SCORE = 0.05
_PASSING = 1000  # scores of an image above the threshold, about as many as a trained network gives
_RATE = 1e-6  # so small that many steps leave the network as it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """One batch in both forms."""

    ours: Batch
    images: list[Tensor]  # float32 [3, S, S] in [0, 1]
    targets: list[dict[str, Tensor]]


def config() -> RunConfig:
    """The recipe with torchvision's box loss, and a rate at which the network does not move."""
    changes = {"loss.smooth_l1_beta": 0.0, "optim.lr": _RATE, "optim.warmup_steps": 0}
    return config_file.override(recipes.retinanet(), changes)


def inputs(batch_size: int, image_size: int, device: torch.device) -> Inputs:
    """Noise and boxes. Every image has the same boxes, as else the two would weigh the images differently.

    torchvision divides by each image's own count of positives, we by that of the batch.
    """
    settings = BatchSettings(batch_size=batch_size, image_size=image_size, num_classes=NUM_CLASSES)
    batch = synthetic_batch(settings, seed=0)
    boxes = batch.targets.boxes[:1].expand_as(batch.targets.boxes).contiguous()
    batch = replace(batch, targets=replace(batch.targets, boxes=boxes)).to(device)
    return Inputs(
        ours=batch,
        images=list(batch.images.float().contiguous() / 255),
        targets=[
            {"boxes": box, "labels": label}
            for box, label in zip(batch.targets.boxes, batch.targets.labels, strict=True)
        ],
    )


def theirs(image_size: int, device: torch.device, state: dict[str, Tensor] | None = None) -> RetinaNet:
    """What `retinanet_resnet50_fpn` makes for pretrained weights, here with random ones that find something."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = RetinaNet(backbone, NUM_CLASSES, min_size=image_size, max_size=image_size).to(device)
    if state is None:
        _randomise(model)
        _calibrate(model, image_size, device)
    else:
        model.load_state_dict(state)
    return model


def ours(state: dict[str, Tensor], settings: RunConfig, image_size: int, device: torch.device) -> DetectionModel:
    preprocess = Preprocess(canvas_hw=(image_size, image_size))
    model = build(settings, num_classes=NUM_CLASSES, preprocess=preprocess).to(device)
    model.load_state_dict(state_names.rename(state, "torchvision").state)
    return model


def whole(model: DetectionModel, settings: RunConfig, image_size: int) -> TrainedModel:
    labels = LabelMap(
        names=tuple(f"class {label}" for label in range(NUM_CLASSES)), category_ids=tuple(range(NUM_CLASSES))
    )
    preprocess = Preprocess(canvas_hw=(image_size, image_size))
    return TrainedModel(model=model.eval(), config=settings, label_map=labels, preprocess=preprocess)


def optimizer(model: RetinaNet) -> torch.optim.Optimizer:
    """As torchvision's reference training has it."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(learning, lr=_RATE, momentum=0.9, weight_decay=1e-4)


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Statistics of the norms that keep activations of moderate size through all blocks."""
    for name, buffer in model.named_buffers():
        last_of_block = ".bn3." in name
        if name.endswith(("running_var", "weight")):
            buffer.copy_((torch.rand_like(buffer) * 0.5 + 0.75) * (0.3 if last_of_block else 1.0))
        elif name.endswith(("running_mean", "bias")):
            buffer.copy_(torch.randn_like(buffer) * 0.1)


@torch.no_grad()
def _calibrate(model: RetinaNet, image_size: int, device: torch.device) -> None:
    """Scale the class outputs until about `_PASSING` scores of an image pass, and box outputs to moderate offsets."""
    output = cast("nn.Conv2d", model.head.classification_head.cls_logits)
    boxes = cast("nn.Conv2d", model.head.regression_head.bbox_reg)
    for layer in (output, boxes):
        nn.init.normal_(layer.weight, std=0.01)
    model.eval()
    images = inputs(1, image_size, device).images
    canvases = model.transform(images)[0].tensors
    features = cast("dict[str, Tensor]", model.backbone(canvases))
    said = cast("dict[str, Tensor]", model.head(list(features.values())))
    assert output.bias is not None
    bias = output.bias[0]
    spread = (said["cls_logits"] - bias).flatten()
    wanted = math.log(_MIN_SCORE / (1 - _MIN_SCORE)) - bias
    output.weight.mul_(wanted / spread.topk(min(_PASSING, len(spread))).values[-1])
    boxes.weight.mul_(0.3 / said["bbox_regression"].std())


def unmatched(found: Sequence[Tensor], expected: Sequence[Tensor], *, score_tolerance: float) -> float:
    """Share of all detections that have no counterpart: same label, IoU of 0.9, nearly the same score.

    Args:
        found: Of each image [K, 6]: box, score, label.
        expected: The same of the other.
        score_tolerance: What is nearly the same.
    """
    alone = total = 0
    for a, b in zip(found, expected, strict=True):
        # What clipping left without area has no overlap, not even with itself, and is no detection of ours.
        a, b = (rows[box_math.area(rows[:, :4]) > 0] for rows in (a, b))
        total += len(a) + len(b)
        is_pair = (box_math.pairwise_iou(a[:, :4], b[:, :4]) >= 0.9) & (a[:, None, 5] == b[:, 5])
        is_pair &= (a[:, None, 4] - b[:, 4]).abs() <= score_tolerance
        alone += int((~is_pair.any(1)).sum()) + int((~is_pair.any(0)).sum())
    return alone / max(1, total)
