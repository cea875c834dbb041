"""The settings of a run, whole."""

from dataclasses import dataclass, field
from typing import Literal

from detector.config.data import AugmentConfig, DataConfig
from detector.config.model import TRUNK, DecodeConfig, ModelConfig
from detector.config.rules import require
from detector.config.training import (
    LOOK_AT_GRADIENTS,
    AssignConfig,
    BalanceConfig,
    CheckpointConfig,
    DistillConfig,
    LengthConfig,
    LossConfig,
    MemoryConfig,
    OptimConfig,
    StageConfig,
)
from detector.errors import ConfigError

_ROUNDING = 1e-6  # of shares that are written with a few digits


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything needed to repeat a run on the same data."""

    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on CUDA, and on a CPU where a probe shows it faster."""
    compile: bool = False
    """Try torch.compile on trunk and heads, and keep it where it is faster. Costs a minute or more at the start."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    assign: AssignConfig = AssignConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    balance: BalanceConfig = BalanceConfig()
    memory: MemoryConfig = MemoryConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    optim: OptimConfig = field(default_factory=OptimConfig)
    length: LengthConfig = field(default_factory=lambda: LengthConfig(epochs=36))
    stages: tuple[StageConfig, ...] = ()
    """Parts of the run, in order; none is one stage with everything."""
    decode: DecodeConfig = DecodeConfig()

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", "between 0 and 2**63 - 1", self.seed)
        self._check_single_answer()
        if self.compile and self.memory.checkpoint != "none":
            raise ConfigError(
                f"compile and memory.checkpoint = {self.memory.checkpoint} do not go together: "
                "torch.compile decides by itself what to compute again; leave one out"
            )
        if self.model.norm == "sync" and self.memory.checkpoint in ("trunk", "all"):
            raise ConfigError(
                f"model.norm = sync and memory.checkpoint = {self.memory.checkpoint} do not go together: the "
                "statistics would be exchanged twice; set memory.checkpoint to none or heads"
            )
        if self.decode.mirror and self.augment.horizontal_flip == 0:
            raise ConfigError(
                "decode.mirror and augment.horizontal_flip = 0 do not go together: the network would be asked about "
                "mirrored images and has never seen one; set decode.mirror to false"
            )
        self._check_balance()
        self._check_stages()
        self._check_micro_batches()

    def _check_micro_batches(self) -> None:
        """What is no sum over images cannot be added up over parts of a batch."""
        if self.memory.micro_batches == 1:
            return
        for key, is_sum in (
            (f"balance.kind = {self.balance.kind}", self.balance.kind in ("fixed", "dwa")),
            (f"assign.kind = {self.assign.kind}", self.assign.kind != "task_aligned"),
            (f"optim.head_clip_norm = {self.optim.head_clip_norm}", self.optim.head_clip_norm == 0),
            ("distill.teacher", self.distill.teacher is None),
        ):
            if not is_sum:
                raise ConfigError(
                    f"memory.micro_batches = {self.memory.micro_batches} does not go with {key}; set it to 1"
                )

    def _check_single_answer(self) -> None:
        """A pooled trunk gives one answer an image; nothing of the dense way fits it, and the other way round."""
        pooled = self.model.neck == "pool"
        for key, is_pooled in (
            (f"assign.kind = {self.assign.kind}", self.assign.kind == "main"),
            (f"loss.classification = {self.loss.classification}", self.loss.classification == "categorical"),
        ):
            if pooled != is_pooled:
                raise ConfigError(
                    f"{key} does not go with model.neck = {self.model.neck}; "
                    "pool, main and categorical belong together (recipe localizer)"
                )
        if pooled and self.data.crops.share > 0:
            raise ConfigError("data.crops.share must be 0 with model.neck = pool: its prior is the whole image")
        if pooled and self.augment.mixes:
            raise ConfigError(
                "augment.mosaic, augment.mixup and augment.copy_paste.probability must be 0 with model.neck = pool: "
                "it looks for the one main object of an image"
            )

    def _check_balance(self) -> None:
        """Rules that look at gradients take a branch's gradient for that of its own loss."""
        cascaded = any(head.input != TRUNK for head in self.model.heads)
        if cascaded and self.model.cascade_gradient == "full" and self.balance.kind in LOOK_AT_GRADIENTS:
            raise ConfigError(
                f"balance.kind = {self.balance.kind} cannot serve a cascade in which one head's loss also teaches "
                "another head; set model.cascade_gradient to detach, or balance.kind to fixed, uncertainty or dwa"
            )

    def _check_stages(self) -> None:
        names = [stage.name for stage in self.stages]
        for name in names:
            require(names.count(name) == 1, "stages", "of different names", f"{name!r} twice")
        total = sum(stage.share for stage in self.stages)
        if self.stages and abs(total - 1) > _ROUNDING:
            shares = " + ".join(f"{stage.share:g}" for stage in self.stages)
            raise ConfigError(f"stages: the shares {shares} sum to {total:g}, must be 1; change one of them")
        heads = [head.name for head in self.model.heads]
        parts = ("backbone", "neck", "heads", *heads)
        for stage in self.stages:
            for part in stage.learn:
                require(
                    part in parts, f"stages.{stage.name}.learn", f"a list of some of {', '.join(parts)}", repr(part)
                )
            for part in stage.reset:
                require(
                    part in heads, f"stages.{stage.name}.reset", f"a list of some of {', '.join(heads)}", repr(part)
                )
        for part in self.optim.part_weight_decay:
            require(part in parts, "optim.part_weight_decay", f"for {', '.join(parts)}", repr(part))


def num_logits(config: RunConfig, num_classes: int) -> int:
    """Outputs of the classification head: softmax needs one more, for background."""
    return num_classes + (config.loss.classification == "softmax")
