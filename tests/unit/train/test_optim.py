"""Who is decayed, who learns slower, what is clipped."""

from typing import Any

import pytest
import torch

from detector.config import RunConfig
from detector.train import distillation, optim
from detector.train.objective import Objective
from tests.unit.train import make

RATES = {"optim.lr": 0.1, "optim.backbone_lr_factor": 0.5, "optim.weight_decay": 0.3, "model.frozen_stages": 2}


def objective(changes: dict[str, Any] | None = None) -> tuple[Objective, RunConfig]:
    config = make.config(RATES | (changes or {}))
    return Objective(make.model(config), config, dtype=torch.float32), config


def found_groups(changes: dict[str, Any]) -> tuple[Objective, dict[int, tuple[float, float]]]:
    """Rate and decay of each parameter."""
    made, config = objective(changes)
    optimizer = optim.build(made, config)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    return made, found


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_groups(name: str) -> None:
    made, found = found_groups({"optim.name": name})
    for key, parameter in made.model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in found, key
            continue
        lr, decay = found[id(parameter)]
        assert lr == pytest.approx(0.05 if key.startswith("backbone.") else 0.1), key
        is_norm_or_bias = key.endswith("bias") or parameter.ndim == 1
        assert decay == (0.0 if is_norm_or_bias else 0.3), key


@pytest.mark.parametrize(
    ("of_parts", "expected"),
    [
        ({"neck": 0.1}, {"backbone": 0.3, "neck": 0.1, "classification": 0.3, "box": 0.3}),
        ({"heads": 0.1}, {"backbone": 0.3, "neck": 0.3, "classification": 0.1, "box": 0.1}),
        ({"heads": 0.1, "box": 0.0}, {"backbone": 0.3, "neck": 0.3, "classification": 0.1, "box": 0.0}),
        ({"backbone": 0.0, "box": 0.2}, {"backbone": 0.0, "neck": 0.3, "classification": 0.3, "box": 0.2}),
    ],
)
def test_a_part_may_have_a_decay_of_its_own(of_parts: dict[str, float], expected: dict[str, float]) -> None:
    made, found = found_groups({"optim.part_weight_decay": of_parts})
    for key, parameter in made.model.named_parameters():
        if id(parameter) in found:
            part = key.split(".")[1 if key.startswith("heads.") else 0]
            is_weight = parameter.ndim > 1
            assert found[id(parameter)][1] == (expected[part] if is_weight else 0.0), key


def test_learned_weights_of_the_losses_have_their_rate_and_no_decay() -> None:
    made, found = found_groups({"balance.kind": "uncertainty", "balance.lr": 0.025})
    (learned,) = made.balancer.parameters()
    assert found[id(learned)] == (0.025, 0.0)


def test_adapters_learn_and_the_teacher_does_not() -> None:
    config = make.config(RATES)
    wide = make.trained(make.config({"model.pyramid.width": 24}))
    teacher = distillation.Teacher(wide, dtype=torch.float32)
    made = Objective(make.model(config), config, dtype=torch.float32, teacher=teacher)
    assert made.adapters is not None
    found = {id(p) for group in optim.build(made, config).param_groups for p in group["params"]}
    assert {id(p) for p in made.adapters.parameters()} <= found
    assert not {id(p) for p in wide.model.parameters()} & found


def test_set_lr_keeps_the_ratio() -> None:
    optimizer = optim.build(*objective())
    optim.set_lr(optimizer, 0.2)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {0.01, 0.02}


def test_one_step_changes_only_what_learns() -> None:
    made, config = objective()
    model = made.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = optim.build(made, config)
    made(make.batch(), made.base_weights).total.backward()
    optimizer.step()
    assert torch.equal(model.backbone.conv1.weight, before["backbone.conv1.weight"])
    assert not torch.equal(model.backbone.layer4[0].conv1.weight, before["backbone.layer4.0.conv1.weight"])


def norm(module: torch.nn.Module) -> float:
    return torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm().item()


@pytest.mark.parametrize("limit", [0.0, 1e-3])
def test_the_whole_gradient_is_clipped(limit: float) -> None:
    made, config = objective({"optim.clip_norm": limit})
    made(make.batch(), made.base_weights).total.backward()
    before = norm(made.model)
    optim.clip(made, config.optim)
    assert norm(made.model) == pytest.approx(limit or before, rel=1e-3)
    assert before > 1e-2


def test_each_head_is_clipped_by_itself() -> None:
    made, config = objective({"optim.head_clip_norm": 0.25, "optim.clip_norm": 0.0})
    made(make.batch(), made.base_weights).total.backward()
    classes, box = (made.model.heads.head_named(name) for name in ("classification", "box"))
    # One above the limit, one below it.
    for parameter in classes.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(10 * 0.25 / norm(classes))
    box_factor = 0.1 / norm(box)
    for parameter in box.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(box_factor)
    trunk = norm(made.model.backbone)
    optim.clip(made, config.optim)
    assert norm(classes) == pytest.approx(0.25, rel=1e-3)
    assert norm(box) == pytest.approx(0.1, rel=1e-3)
    assert norm(made.model.backbone) == trunk
