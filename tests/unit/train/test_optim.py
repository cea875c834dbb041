"""Who is decayed, who learns slower."""

from typing import Literal

import pytest
import torch

from detector import config_file, recipes
from detector.config import OptimConfig
from detector.model import detector as network
from detector.model.detector import DetectionModel
from detector.train import optim
from detector.types import Preprocess


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    config = config_file.override(recipes.small(), {"model.frozen_stages": 2})
    return network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=(64, 64)))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_groups(model: DetectionModel, name: Literal["adamw", "sgd"]) -> None:
    config = OptimConfig(name=name, lr=0.1, backbone_lr_factor=0.5, weight_decay=0.3)
    optimizer = optim.build(model, config)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in found, key
            continue
        lr, decay = found[id(parameter)]
        assert lr == pytest.approx(0.05 if key.startswith("backbone.") else 0.1), key
        is_norm_or_bias = key.endswith("bias") or parameter.ndim == 1
        assert decay == (0.0 if is_norm_or_bias else 0.3), key
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)


def test_set_lr_keeps_the_ratio(model: DetectionModel) -> None:
    optimizer = optim.build(model, OptimConfig(lr=0.1, backbone_lr_factor=0.5))
    optim.set_lr(optimizer, 0.2)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {0.01, 0.02}


def test_one_step_changes_only_what_learns(model: DetectionModel) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = optim.build(model, OptimConfig(lr=0.01))
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    prediction = model.train()(images)
    (prediction.logits.sum() + prediction.deltas.sum()).backward()
    optimizer.step()
    assert torch.equal(model.backbone.conv1.weight, before["backbone.conv1.weight"])
    assert not torch.equal(model.backbone.layer4[0].conv1.weight, before["backbone.layer4.0.conv1.weight"])
