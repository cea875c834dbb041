"""Every setting of a run with its default, as frozen dataclasses that check themselves.

The only place where a default is written. `recipes.py` picks combinations, `config_file.py` reads and writes.
"""

from dataclasses import dataclass, field
from typing import Literal

from detector.errors import ConfigError

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
Classification = Literal["softmax", "sigmoid", "focal", "quality"]


def _require(condition: bool, key: str, rule: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{key} must be {rule}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CropConfig:
    """A first part of training on cut-outs: objects keep their size, and the same time gives more steps."""

    share: float = 0.0
    """Of the run; 0 trains on whole images from the start."""
    size: float = 0.5
    """Sides of the cut-out, relative to the canvas."""
    batch_factor: int = 2
    """Cut-outs in a batch for each image that a batch has later."""

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, "data.crops.share", "between 0 and 1", self.share)
        _require(0 < self.size <= 1, "data.crops.size", "above 0 and at most 1", self.size)
        _require(self.batch_factor >= 1, "data.crops.batch_factor", ">= 1", self.batch_factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What the network is shown."""

    image_size: int = 640
    """Longer side of the canvas in pixels; the aspect comes from the training images."""
    batch_size: int = 16
    workers: int | None = None
    """Loader processes; null chooses for the machine. The batches are the same for any number."""
    crops: CropConfig = CropConfig()

    def __post_init__(self) -> None:
        _require(64 <= self.image_size <= 4096, "data.image_size", "between 64 and 4096", self.image_size)
        _require(self.batch_size >= 1, "data.batch_size", ">= 1", self.batch_size)
        _require(self.workers is None or self.workers >= 0, "data.workers", ">= 0", self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes to training images; probabilities in [0, 1], ranges as (low, high)."""

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    scale: tuple[float, float] = (0.7, 1.5)
    """Zoom relative to the fitted image; the cut-out is placed at random."""
    aspect: tuple[float, float] = (0.9, 1.1)
    """Width over height, relative."""
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    min_visibility: float = 0.3
    """An object of which a cut leaves less than this share of its area is no longer an object."""

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip", "min_visibility"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"augment.{name}", "between 0 and 1", value)
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"augment.{name}", "at least 0 and below 1", value)
        _require(0 <= self.hue <= 0.5, "augment.hue", "between 0 and 0.5", self.hue)
        for name in ("scale", "aspect"):
            low, high = getattr(self, name)
            _require(0 < low <= high, f"augment.{name}", "two numbers with 0 < low <= high", (low, high))


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidConfig:
    """Feature pyramid (Lin et al. 2017). Level l has stride 2**l."""

    first_level: int = 3
    last_level: int = 7
    width: int = 256
    extra_from: Literal["backbone", "pyramid"] = "backbone"
    """Input of the first level above the backbone: its last feature (C5), or the pyramid's (P5)."""

    def __post_init__(self) -> None:
        _require(2 <= self.first_level <= 5, "model.pyramid.first_level", "between 2 and 5", self.first_level)
        _require(
            max(5, self.first_level) <= self.last_level <= 8,
            "model.pyramid.last_level",
            "between 5 and 8",
            self.last_level,
        )
        _require(self.width >= 8, "model.pyramid.width", ">= 8", self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """The convolutions of one head before its output layer."""

    depth: int = 4
    width: int = 256
    norm: Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        _require(0 <= self.depth <= 8, "model.<head>.depth", "between 0 and 8", self.depth)
        _require(self.width >= 8, "model.<head>.width", ">= 8", self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorConfig:
    """Reference boxes of every cell: each scale with each ratio."""

    scales: tuple[float, ...] = (8.0,)
    """Side of a square prior in strides."""
    ratios: tuple[float, ...] = (1.0,)
    """Height over width at equal area."""
    anchoring: Literal["centre", "corner"] = "centre"
    """Where in its cell a prior is centred; `corner` and whole pixels as torchvision has them."""

    def __post_init__(self) -> None:
        for name in ("scales", "ratios"):
            values = getattr(self, name)
            _require(
                len(values) > 0 and min(values) > 0, f"model.priors.{name}", "one or more positive numbers", values
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Trunk and heads."""

    backbone: Backbone = "resnet50"
    batch_norm: Literal["live", "frozen"] = "live"
    frozen_stages: int = 0
    """Backbone parts that do not learn, from the input on: 1 is the stem, 2 adds layer1, up to 5."""
    pyramid: PyramidConfig = PyramidConfig()
    classification: TowerConfig = TowerConfig()
    box: TowerConfig = TowerConfig()
    priors: PriorConfig = PriorConfig()
    delta_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Unit of the four box offsets (dx, dy, dw, dh)."""
    class_prior: float = 0.01
    """Probability every class starts with (Lin et al. 2017, focal loss, section 4.1)."""

    def __post_init__(self) -> None:
        _require(0 <= self.frozen_stages <= 5, "model.frozen_stages", "between 0 and 5", self.frozen_stages)
        _require(min(self.delta_std) > 0, "model.delta_std", "four positive numbers", self.delta_std)
        _require(0 < self.class_prior < 1, "model.class_prior", "between 0 and 1", self.class_prior)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignConfig:
    """Which priors answer for an object."""

    kind: Literal["atss", "max_iou"] = "atss"
    candidates: int = 9
    """ATSS: nearest priors of each level that are considered."""
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    rescue: bool = True
    """max_iou: an object that no prior reaches takes its best ones all the same."""

    def __post_init__(self) -> None:
        _require(self.candidates >= 1, "assign.candidates", ">= 1", self.candidates)
        _require(0 <= self.positive_iou <= 1, "assign.positive_iou", "between 0 and 1", self.positive_iou)
        _require(
            0 <= self.negative_iou <= self.positive_iou,
            "assign.negative_iou",
            "at least 0 and at most assign.positive_iou",
            self.negative_iou,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Training objective: weighted sum of a cross entropy, a smooth-L1 loss and, where it has a weight, GIoU."""

    classification: Classification = "quality"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    """Exponent of the focal and of the quality-focal modulation."""
    smooth_l1_beta: float = 1 / 9
    classification_weight: float = 1.0
    smooth_l1_weight: float = 1.0
    giou_weight: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.focal_alpha <= 1, "loss.focal_alpha", "between 0 and 1", self.focal_alpha)
        _require(self.focal_gamma >= 0, "loss.focal_gamma", ">= 0", self.focal_gamma)
        _require(self.smooth_l1_beta >= 0, "loss.smooth_l1_beta", ">= 0", self.smooth_l1_beta)
        for name in ("classification_weight", "smooth_l1_weight", "giou_weight"):
            value = getattr(self, name)
            _require(value >= 0, f"loss.{name}", ">= 0", value)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Optimizer, rates and weight averaging."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-4
    backbone_lr_factor: float = 1.0
    weight_decay: float = 0.05
    """Not applied to norms and biases."""
    momentum: float = 0.9
    """sgd only."""
    clip_norm: float = 10.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    warmup_steps: int = 500
    final_lr_factor: float = 0.01
    """Where the cosine ends, as a share of lr."""
    ema_width: float = 0.05
    """Weights are averaged over about this share of the run so far (Karras et al. 2024); 0 switches it off."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optim.lr", "> 0", self.lr)
        _require(self.backbone_lr_factor >= 0, "optim.backbone_lr_factor", ">= 0", self.backbone_lr_factor)
        _require(self.weight_decay >= 0, "optim.weight_decay", ">= 0", self.weight_decay)
        _require(0 <= self.momentum < 1, "optim.momentum", "at least 0 and below 1", self.momentum)
        _require(self.clip_norm >= 0, "optim.clip_norm", ">= 0", self.clip_norm)
        _require(self.warmup_steps >= 0, "optim.warmup_steps", ">= 0", self.warmup_steps)
        _require(0 <= self.final_lr_factor <= 1, "optim.final_lr_factor", "between 0 and 1", self.final_lr_factor)
        _require(0 <= self.ema_width <= 0.25, "optim.ema_width", "between 0 and 0.25", self.ema_width)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthConfig:
    """How long to train: exactly one of the three."""

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    evaluations: int = 10
    """Times the validation split is scored, evenly spread; the last is at the end."""

    def __post_init__(self) -> None:
        given = {
            name: value
            for name, value in (("epochs", self.epochs), ("steps", self.steps), ("minutes", self.minutes))
            if value is not None
        }
        if len(given) != 1:
            raise ConfigError(f"length needs exactly one of epochs, steps and minutes, got {given or 'none'}")
        for name, value in given.items():
            _require(0 < value < float("inf"), f"length.{name}", "a positive number", value)
        _require(self.evaluations >= 1, "length.evaluations", ">= 1", self.evaluations)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """From raw predictions to detections."""

    min_score: float = 0.001
    """Kept low: mAP is an integral over all scores. `predict --score` cuts later."""
    nms_iou: float = 0.6
    candidates: int = 1000
    """Best priors kept before suppression."""
    candidates_per_level: bool = False
    """Count `candidates` for each pyramid level instead of the whole image, as torchvision does."""
    max_detections: int = 100

    def __post_init__(self) -> None:
        _require(0 <= self.min_score < 1, "decode.min_score", "at least 0 and below 1", self.min_score)
        _require(0 <= self.nms_iou <= 1, "decode.nms_iou", "between 0 and 1", self.nms_iou)
        _require(self.candidates >= 1, "decode.candidates", ">= 1", self.candidates)
        _require(self.max_detections >= 1, "decode.max_detections", ">= 1", self.max_detections)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything needed to repeat a run on the same data."""

    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on CUDA, and on a CPU where a probe shows it faster."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    assign: AssignConfig = AssignConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    length: LengthConfig = field(default_factory=lambda: LengthConfig(epochs=36))
    decode: DecodeConfig = DecodeConfig()

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, "seed", "between 0 and 2**63 - 1", self.seed)


def num_logits(config: RunConfig, num_classes: int) -> int:
    """Outputs of the classification head: softmax needs one more, for background."""
    return num_classes + (config.loss.classification == "softmax")
