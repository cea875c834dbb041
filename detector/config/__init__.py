"""Every setting of a run with its default, as frozen dataclasses that check themselves.

The only place where a default is written. `recipes.py` picks combinations, `config_file.py` reads and writes.
"""

from detector.config.data import AugmentConfig, CopyPasteConfig, CropConfig, DataConfig
from detector.config.model import (
    Backbone,
    DecodeConfig,
    HeadConfig,
    ModelConfig,
    PriorConfig,
    PyramidConfig,
    TowerConfig,
    TrunkNorm,
)
from detector.config.run import RunConfig, num_logits
from detector.config.training import (
    AssignConfig,
    BalanceConfig,
    Classification,
    DistillConfig,
    LengthConfig,
    LossConfig,
    MemoryConfig,
    OptimConfig,
    StageConfig,
)

__all__ = [
    "AssignConfig",
    "AugmentConfig",
    "Backbone",
    "BalanceConfig",
    "Classification",
    "CopyPasteConfig",
    "CropConfig",
    "DataConfig",
    "DecodeConfig",
    "DistillConfig",
    "HeadConfig",
    "LengthConfig",
    "LossConfig",
    "MemoryConfig",
    "ModelConfig",
    "OptimConfig",
    "PriorConfig",
    "PyramidConfig",
    "RunConfig",
    "StageConfig",
    "TowerConfig",
    "TrunkNorm",
    "num_logits",
]
