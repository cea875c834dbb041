"""A run is a function that returns a whole configuration. A recipe only picks; `detector.config` defines."""

from dataclasses import replace
from typing import Literal, assert_never, get_args

from detector.config import (
    AssignConfig,
    AugmentConfig,
    CropConfig,
    DataConfig,
    DecodeConfig,
    HeadConfig,
    LengthConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PriorConfig,
    PyramidConfig,
    RunConfig,
    StageConfig,
    TowerConfig,
)

RecipeName = Literal[
    "small",
    "standard",
    "coco-1x",
    "coco-3x",
    "retinanet",
    "retinanet-v2",
    "distill-one-stage",
    "distill-two-stage",
    "distill-three-stage",
    "localizer",
]
NAMES: tuple[RecipeName, ...] = get_args(RecipeName)
NEED_TEACHER: tuple[RecipeName, ...] = ("distill-one-stage", "distill-two-stage", "distill-three-stage")


def make(name: RecipeName) -> RunConfig:
    """The configuration of a recipe."""
    match name:
        case "small":
            return small()
        case "standard":
            return standard()
        case "coco-1x":
            return coco_1x()
        case "coco-3x":
            return coco_3x()
        case "retinanet":
            return retinanet()
        case "retinanet-v2":
            return retinanet_v2()
        case "localizer":
            return localizer()
        case "distill-one-stage" | "distill-two-stage" | "distill-three-stage":
            return _distilled(name)
        case _:
            assert_never(name)


def _distilled(name: Literal["distill-one-stage", "distill-two-stage", "distill-three-stage"]) -> RunConfig:
    match name:
        case "distill-one-stage":
            return distill_one_stage()
        case "distill-two-stage":
            return distill_two_stage()
        case "distill-three-stage":
            return distill_three_stage()


def small() -> RunConfig:
    """ResNet-18 with light heads at 320 pixels: for a CPU, or a few hundred images.

    What it reaches on blood cells from scratch stands in the README under Measured.
    """
    head = TowerConfig(depth=2, width=96)
    return RunConfig(
        data=DataConfig(image_size=320, batch_size=4, crops=CropConfig(share=0.5)),
        augment=AugmentConfig(vertical_flip=0.5, clean_share=0.3),
        model=ModelConfig(
            backbone="resnet18",
            pyramid=PyramidConfig(first_level=3, last_level=6, width=96),
            heads=_two_heads(head),
            priors=PriorConfig(scales=(4.0,)),
        ),
        loss=LossConfig(smooth_l1_weight=0.25, giou_weight=2.0),
        optim=OptimConfig(lr=3e-3, warmup_steps=50),
        length=LengthConfig(minutes=20),
        decode=DecodeConfig(voting=0.025, zooms=(0.9, 1.0, 1.1)),
    )


def standard() -> RunConfig:
    """ResNet-50 with full heads at 640 pixels: for a GPU and thousands of images."""
    return RunConfig(
        loss=LossConfig(smooth_l1_weight=0.25, giou_weight=2.0),
        optim=OptimConfig(lr=2e-4),
    )


def coco_1x() -> RunConfig:
    """ResNet-50 on COCO, 12 epochs, for several GPUs and ImageNet's weights (--init imagenet).

    The model is that of `standard`, with norms, stem and layer1 held still, as fits two images a GPU (Detectron2's and
    mmdetection's RetinaNet). AdamW with 1e-4 and decay 0.05 at 16 images is torchvision's for its RetinaNet v2 (vision
    pull request 5756); ATSS, quality-focal loss and GIoU with weight 2 are those of GFL (Li et al. 2020). A picture of
    4:3 has a short side of 800, the usual one. Not trained here. Published, by model and schedule: RetinaNet 1x 36.5
    (mmdetection) and 37.4 (Detectron2), GFL 1x 40.2 (mmdetection) AP on val2017.
    """
    return RunConfig(
        data=DataConfig(image_size=1072),
        augment=_flip_and_scale(1.0),
        model=ModelConfig(norm="frozen", frozen_stages=2),
        loss=LossConfig(smooth_l1_weight=0.25, giou_weight=2.0),
        length=LengthConfig(epochs=12),
    )


def coco_3x() -> RunConfig:
    """`coco-1x` for 36 epochs with short sides from 480 to 800 pixels, as torchvision's RetinaNet v2.

    Not trained here. Published: RetinaNet 3x multi-scale 39.5 (mmdetection), RetinaNet v2 with 26 epochs 41.5
    (torchvision), GFL 2x multi-scale 42.9 (mmdetection).
    """
    return replace(coco_1x(), augment=_flip_and_scale(0.6), length=LengthConfig(epochs=36))


def retinanet() -> RunConfig:
    """RetinaNet as published (Lin et al. 2017) and as torchvision builds it: its state dict loads into this model.

    Nine priors a cell, max-IoU assignment, focal and smooth-L1 losses, no norm in the heads.
    """
    head = TowerConfig(depth=4, width=256, norm="none")
    return RunConfig(
        data=DataConfig(image_size=800),
        augment=_flip_and_scale(1.0),
        model=ModelConfig(
            backbone="resnet50",
            norm="frozen",
            frozen_stages=2,
            pyramid=PyramidConfig(extra_from="pyramid"),
            heads=_two_heads(head),
            priors=PriorConfig(
                scales=(4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3)), ratios=(0.5, 1.0, 2.0), anchoring="corner"
            ),
            delta_std=(1.0, 1.0, 1.0, 1.0),
        ),
        assign=AssignConfig(kind="max_iou"),
        loss=LossConfig(classification="focal"),
        optim=OptimConfig(name="sgd", lr=0.01, weight_decay=1e-4, ema_width=0.0),
        decode=DecodeConfig(
            min_score=0.05, nms_iou=0.5, candidates=1000, candidates_per_level=True, max_detections=300
        ),
    )


def retinanet_v2() -> RunConfig:
    """Torchvision's `retinanet_resnet50_fpn_v2`: its state dict loads into this model.

    Beside `retinanet`: GroupNorm in the heads, the upper levels from C5, norms of the trunk that learn, GIoU, AdamW,
    26 epochs with short sides of several sizes (vision pull request 5756; its weights have 41.5 AP on COCO).
    """
    plain = retinanet()
    return replace(
        plain,
        augment=_flip_and_scale(0.6),
        model=replace(
            plain.model,
            norm="batch",
            frozen_stages=0,
            pyramid=PyramidConfig(extra_from="backbone"),
            heads=_two_heads(TowerConfig(depth=4, width=256, norm="group")),
        ),
        loss=LossConfig(classification="focal", smooth_l1_weight=0.0, giou_weight=1.0),
        optim=OptimConfig(lr=1e-4, ema_width=0.0),
        length=LengthConfig(epochs=26),
    )


def localizer() -> RunConfig:
    """The class and the box of the one main object of an image (Sermanet et al. 2014, OverFeat, section 4).

    ResNet-18, global pooling, and one fully connected layer each for the class and the box. From scratch on 300
    generated images at 96 pixels, 140 steps: mean IoU 0.80, accuracy 0.99 (tests/integration/test_localizer.py).
    """
    return RunConfig(
        data=DataConfig(image_size=224, batch_size=16),
        # Never larger than it fits, so that the main object is in sight; smaller and elsewhere, to learn places.
        augment=AugmentConfig(scale=(0.7, 1.0)),
        model=ModelConfig(
            backbone="resnet18",
            neck="pool",
            heads=_two_heads(TowerConfig(depth=0)),
            delta_std=(0.2, 0.2, 0.4, 0.4),  # about their spread around the whole image
        ),
        assign=AssignConfig(kind="main"),
        loss=LossConfig(classification="categorical", smooth_l1_beta=0.05, smooth_l1_weight=0.7),
        optim=OptimConfig(lr=2e-3, warmup_steps=50),
        length=LengthConfig(minutes=20),
        decode=DecodeConfig(min_score=0.0, candidates=1, max_detections=1),
    )


_NO_HINTS = {"features.hidden": 0.0, "features.attention": 0.0}
_NO_LOGITS = {"classification.logit": 0.0, "box.logit": 0.0}


def distill_one_stage() -> RunConfig:
    """`small` with a teacher (--teacher): hidden, attention and logit losses together from start to end."""
    return small()


def distill_two_stage() -> RunConfig:
    """`small` with a teacher: first its features (hidden and attention), then its predictions (logits)."""
    return replace(
        small(),
        stages=(
            StageConfig(name="features", share=0.3, weights=_NO_LOGITS),
            StageConfig(name="logits", share=0.7, weights=_NO_HINTS),
        ),
    )


def distill_three_stage() -> RunConfig:
    """`small` with a teacher: its features, then features and predictions, then predictions alone."""
    return replace(
        small(),
        stages=(
            StageConfig(name="features", share=0.2, weights=_NO_LOGITS),
            StageConfig(name="all", share=0.2),
            StageConfig(name="logits", share=0.6, weights=_NO_HINTS),
        ),
    )


def _flip_and_scale(smallest: float) -> AugmentConfig:
    """Flips, and sizes between a share of the fitted one and all of it; colours and shapes stay."""
    return AugmentConfig(scale=(smallest, 1.0), aspect=(1.0, 1.0), brightness=0, contrast=0, saturation=0, hue=0)


def _two_heads(tower: TowerConfig) -> tuple[HeadConfig, ...]:
    return (
        HeadConfig(name="classification", kind="classification", tower=tower),
        HeadConfig(name="box", kind="box", tower=tower),
    )
