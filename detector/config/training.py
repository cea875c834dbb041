"""Settings of training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from detector.config.rules import require
from detector.errors import ConfigError

Classification = Literal["softmax", "sigmoid", "focal", "quality", "categorical"]
"""`softmax` has an output for background; `categorical` has none, for a network that gives one answer an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignConfig:
    """Which priors answer for an object."""

    kind: Literal["atss", "max_iou", "task_aligned", "main"] = "atss"
    """`main`: the largest object of the image, for the localizer."""
    candidates: int = 9
    """ATSS: nearest priors of each level that are considered."""
    aligned_candidates: int = 13
    """task_aligned: best priors of an object that answer for it."""
    aligned_powers: tuple[float, float] = (1.0, 6.0)
    """task_aligned: exponents of the class score and of the IoU in their product."""
    aligned_from: float = 0.2
    """task_aligned: share of the run after which it takes over from ATSS; early predictions choose badly."""
    positive_iou: float = 0.5
    negative_iou: float = 0.4
    rescue: bool = True
    """max_iou: an object that no prior reaches takes its best ones all the same."""

    def __post_init__(self) -> None:
        require(1 <= self.candidates <= 1000, "assign.candidates", "between 1 and 1000", self.candidates)
        require(
            1 <= self.aligned_candidates <= 1000,
            "assign.aligned_candidates",
            "between 1 and 1000",
            self.aligned_candidates,
        )
        require(min(self.aligned_powers) >= 0, "assign.aligned_powers", "two numbers >= 0", self.aligned_powers)
        require(0 <= self.aligned_from <= 1, "assign.aligned_from", "between 0 and 1", self.aligned_from)
        require(0 <= self.positive_iou <= 1, "assign.positive_iou", "between 0 and 1", self.positive_iou)
        require(
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
    quality_weight: float = 1.0
    """Of quality heads: binary cross entropy with the IoU of the found box as its target."""

    def __post_init__(self) -> None:
        require(0 <= self.focal_alpha <= 1, "loss.focal_alpha", "between 0 and 1", self.focal_alpha)
        require(self.focal_gamma >= 0, "loss.focal_gamma", ">= 0", self.focal_gamma)
        require(self.smooth_l1_beta >= 0, "loss.smooth_l1_beta", ">= 0", self.smooth_l1_beta)
        for name in ("classification_weight", "smooth_l1_weight", "giou_weight", "quality_weight"):
            value = getattr(self, name)
            require(value >= 0, f"loss.{name}", ">= 0", value)


LOOK_AT_GRADIENTS = ("gradnorm", "imtl_g", "mgda", "pcgrad", "cagrad")


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceConfig:
    """How the heads share the trunk, beyond the fixed weights of their losses."""

    kind: Literal["fixed", "uncertainty", "dwa", "gradnorm", "imtl_g", "mgda", "pcgrad", "cagrad"] = "fixed"
    lr: float = 0.01
    """Of the learned weights: uncertainty and gradnorm."""
    temperature: float = 2.0
    """dwa: the higher, the more alike the weights."""
    restoring: float = 1.5
    """gradnorm: how hard a loss that lags is pulled (alpha)."""
    conflict_aversion: float = 0.5
    """cagrad: radius around the mean gradient, relative (c)."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "balance.lr", "> 0", self.lr)
        require(self.temperature > 0, "balance.temperature", "> 0", self.temperature)
        require(self.restoring >= 0, "balance.restoring", ">= 0", self.restoring)
        require(
            0 <= self.conflict_aversion < 1,
            "balance.conflict_aversion",
            "at least 0 and below 1",
            self.conflict_aversion,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """Losses against a trained model of the same classes, the teacher."""

    teacher: str | None = None
    """Its model file; null trains without one."""
    hidden_weight: float = 10.0
    """Features of each level, standardised (PKD)."""
    attention_weight: float = 1.0
    """Where in the image the features are strong."""
    class_logit_weight: float = 1.0
    box_logit_weight: float = 1.0
    attention_temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("hidden_weight", "attention_weight", "class_logit_weight", "box_logit_weight"):
            require(getattr(self, name) >= 0, f"distill.{name}", ">= 0", getattr(self, name))
        require(self.attention_temperature > 0, "distill.attention_temperature", "> 0", self.attention_temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """A part of the run with its own losses, its own parts that learn, and its own rate."""

    name: str
    share: float
    """Of the whole run; the shares of all stages sum to 1."""
    weights: Mapping[str, float] = field(default_factory=dict[str, float])
    """Weights of losses (such as box.giou or features.hidden) in place of the run's; a 0 drops a loss."""
    ground_truth: float = 1.0
    """Factor on the weights of all losses that are not against a teacher; 0 learns from the teacher alone."""
    learn: tuple[str, ...] = ()
    """Parts that learn: backbone, neck, heads, or heads by name. None named: all."""
    reset: tuple[str, ...] = ()
    """Heads that begin the stage with new random weights."""
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        require(self.name != "", "stages.<name>.name", "a word", repr(self.name))
        require(0 < self.share <= 1, f"stages.{self.name}.share", "above 0 and at most 1", self.share)
        require(self.ground_truth >= 0, f"stages.{self.name}.ground_truth", ">= 0", self.ground_truth)
        require(self.lr_factor > 0, f"stages.{self.name}.lr_factor", "> 0", self.lr_factor)
        for term, weight in self.weights.items():
            require(weight >= 0, f"stages.{self.name}.weights.{term}", ">= 0", weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """Time for memory."""

    heads: Literal["joint", "sequential"] = "joint"
    """`sequential` runs each head forward and backward before the next, piece by piece; the gradients are equal."""
    piece_cells: int | None = None
    """Cells (of the pyramid, times images) in a piece; null chooses for the device."""
    checkpoint: Literal["none", "trunk", "heads", "all"] = "none"
    """Whose activations are computed again in the backward pass instead of kept; the gradients are equal."""
    micro_batches: int = 1
    """Parts of a batch that go through the network one after another before the step. With
    model.norm = frozen or group the gradients are those of the whole batch."""

    def __post_init__(self) -> None:
        require(1 <= self.micro_batches <= 4096, "memory.micro_batches", "between 1 and 4096", self.micro_batches)
        require(self.piece_cells is None or self.piece_cells >= 1, "memory.piece_cells", ">= 1", self.piece_cells)


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
    part_weight_decay: Mapping[str, float] = field(default_factory=dict[str, float])
    """Another decay for a part: backbone, neck, heads, or one head by its name."""
    clip_norm: float = 10.0
    """Largest norm of the whole gradient; 0 switches clipping off."""
    head_clip_norm: float = 0.0
    """Largest norm of the gradient that one head sends into the trunk, and of the gradient of its own weights."""
    warmup_steps: int = 500
    final_lr_factor: float = 0.01
    """Where the cosine ends, as a share of lr."""
    ema_width: float = 0.05
    """Weights are averaged over about this share of the run so far (Karras et al. 2024); 0 switches it off."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", "> 0", self.lr)
        require(self.backbone_lr_factor >= 0, "optim.backbone_lr_factor", ">= 0", self.backbone_lr_factor)
        require(self.weight_decay >= 0, "optim.weight_decay", ">= 0", self.weight_decay)
        require(0 <= self.momentum < 1, "optim.momentum", "at least 0 and below 1", self.momentum)
        for part, decay in self.part_weight_decay.items():
            require(decay >= 0, f"optim.part_weight_decay.{part}", ">= 0", decay)
        require(self.head_clip_norm >= 0, "optim.head_clip_norm", ">= 0", self.head_clip_norm)
        require(self.clip_norm >= 0, "optim.clip_norm", ">= 0", self.clip_norm)
        require(self.warmup_steps >= 0, "optim.warmup_steps", ">= 0", self.warmup_steps)
        require(0 <= self.final_lr_factor <= 1, "optim.final_lr_factor", "between 0 and 1", self.final_lr_factor)
        require(0 <= self.ema_width <= 0.25, "optim.ema_width", "between 0 and 0.25", self.ema_width)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthConfig:
    """How long to train: exactly one of the three."""

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    evaluations: int = 10
    """Times the validation split is scored, evenly spread; the last is at the end."""
    patience: int | None = None
    """Scorings in a row without a gain beyond noise that end the run early; null for never."""

    def __post_init__(self) -> None:
        given = {
            name: value
            for name, value in (("epochs", self.epochs), ("steps", self.steps), ("minutes", self.minutes))
            if value is not None
        }
        if len(given) != 1:
            raise ConfigError(f"length needs exactly one of epochs, steps and minutes, got {given or 'none'}")
        for name, value in given.items():
            require(0 < value < float("inf"), f"length.{name}", "a positive number", value)
        require(self.evaluations >= 1, "length.evaluations", ">= 1", self.evaluations)
        require(self.patience is None or self.patience >= 1, "length.patience", ">= 1", self.patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """How often training can be gone back to."""

    seconds: float = 60.0
    """Between two checkpoints; longer where copying the state would cost more than a fiftieth of the time."""

    def __post_init__(self) -> None:
        require(self.seconds >= 0, "checkpoint.seconds", ">= 0", self.seconds)
