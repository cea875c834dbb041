"""Small networks and batches for tests of training."""

from typing import Any

import torch

from detector import config_file, recipes
from detector.config import RunConfig
from detector.model.detector import DetectionModel, build
from detector.model.model_file import TrainedModel
from detector.types import Batch, LabelMap, Preprocess, Targets

HW = (64, 96)
NUM_CLASSES = 3
LOCALIZER: dict[str, Any] = {
    "model.neck": "pool",
    "assign.kind": "main",
    "loss.classification": "categorical",
    "data.crops.share": 0.0,
}


def config(changes: dict[str, Any] | None = None) -> RunConfig:
    narrow = {
        "model.pyramid.width": 16,
        "model.heads.box.tower.width": 16,
        "model.heads.classification.tower.width": 16,
        "precision": "float32",
    }
    return config_file.override(config_file.override(recipes.small(), narrow), changes or {})


def model(settings: RunConfig, seed: int = 0) -> DetectionModel:
    torch.manual_seed(seed)
    return build(settings, num_classes=NUM_CLASSES, preprocess=Preprocess(canvas_hw=HW))


def trained(settings: RunConfig, names: tuple[str, ...] = ("a", "b", "c"), seed: int = 0) -> TrainedModel:
    preprocess = Preprocess(canvas_hw=HW)
    torch.manual_seed(seed)
    return TrainedModel(
        model=build(settings, num_classes=len(names), preprocess=preprocess),
        config=settings,
        label_map=LabelMap(names=names, category_ids=tuple(range(1, len(names) + 1))),
        preprocess=preprocess,
    )


def batch(num_images: int = 3, seed: int = 1) -> Batch:
    """Images with three objects, with one, with none, and so on again."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_images, 4, 2, generator=generator) * 40
    size = torch.rand(num_images, 4, 2, generator=generator) * 40 + 8
    rows = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    is_object = rows.repeat(-(-num_images // 3), 1)[:num_images]
    return Batch(
        images=torch.randint(0, 255, (num_images, 3, *HW), generator=generator, dtype=torch.uint8),
        targets=Targets(
            boxes=torch.cat((corner, corner + size), -1),
            labels=torch.randint(0, NUM_CLASSES, (num_images, 4), generator=generator),
            is_object=is_object,
            is_crowd=torch.zeros_like(is_object),
        ),
        indices=torch.arange(num_images),
        placements=(),
    )
