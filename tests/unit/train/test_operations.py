"""A step does little beside its convolutions, and the host never waits for the device in it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from detector import config_file, recipes
from detector.benchmark.operations import FORWARD, Operations
from detector.config import RunConfig
from detector.model import decode
from detector.recipes import RecipeName
from detector.train import optim
from detector.train.ema import AveragedModel
from detector.train.learner import Learner
from tests.unit.train import make

BATCH = 16
LIMITS: dict[RecipeName, int] = {"standard": 340, "retinanet": 190}
"""Operations of a step outside trunk and heads: assignment, targets, losses, junction, balancing."""
NARROW = {
    "model.backbone": "resnet18",
    "model.pyramid.width": 16,
    "model.heads.box.tower.width": 16,
    "model.heads.classification.tower.width": 16,
    "precision": "float32",
}


def config(recipe: RecipeName) -> RunConfig:
    return config_file.override(recipes.make(recipe), NARROW)


def counted_step(recipe: RecipeName, monkeypatch: pytest.MonkeyPatch) -> Operations:
    settings = config(recipe)
    model = make.model(settings)
    learner = Learner(model, settings, dtype=torch.float32)
    batch = make.batch(BATCH)
    learner.learn(batch, 0.5)  # makes what is kept from step to step
    operations = Operations()
    objective = learner.objective
    parts: list[nn.Module] = [model.backbone, model.neck, *model.heads.values()]
    objective.junction.combine = operations.named("junction", objective.junction.combine)
    objective.balancer.observe = operations.named("balancing", objective.balancer.observe)
    learner._optimizer.step = operations.named("update", learner._optimizer.step)
    monkeypatch.setattr(optim, "clip", operations.named("update", optim.clip))
    monkeypatch.setattr(AveragedModel, "update", operations.named("update", AveragedModel.update))
    with operations, operations.modules("network", parts):
        learner.learn(batch, 0.5)
    return operations


@pytest.mark.parametrize("recipe", LIMITS)
def test_a_training_step(recipe: RecipeName, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = counted_step(recipe, monkeypatch)
    assert not operations.waits
    assert operations.total(FORWARD, "junction", "balancing") <= LIMITS[recipe]


@pytest.mark.parametrize("recipe", LIMITS)
def test_images_to_detections(recipe: RecipeName) -> None:
    """The host waits once for the candidates of all images, and once more inside the suppression."""
    settings = config(recipe)
    model = make.model(settings).eval()
    images = make.batch(BATCH).images
    operations = Operations()
    with torch.inference_mode(), operations, operations.modules("network", [model.backbone, model.neck, model.heads]):
        packed = decode.pack(
            model(images),
            model.priors(make.HW),
            torch.tensor([make.HW] * BATCH).float(),
            classification=settings.loss.classification,
            delta_std=settings.model.delta_std,
            config=replace(settings.decode, min_score=0.001),
        )
    assert packed.shape == (BATCH, settings.decode.max_detections, 8 + make.NUM_CLASSES)
    assert (packed[..., 1] > 0).any()
    assert operations.waits == {"aten::nonzero": 1, "torchvision::nms": 1}
