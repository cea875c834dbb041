"""Heads one after another must give the gradients of all heads at once, in every way training can be put together."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.config import RunConfig
from detector.errors import DetectorError
from detector.model import heads as head_module
from detector.train import sequential
from detector.train.objective import Objective, StepLosses
from tests.unit.train import make

SEQUENTIAL = {"memory.heads": "sequential", "memory.piece_cells": 40}  # cuts every level but the smallest
CASCADES: dict[str, dict[str, Any]] = {
    "parallel": {},
    "class feeds box": {"model.heads.box.input": "classification"},
    "class feeds box, detached": {"model.heads.box.input": "classification", "model.cascade_gradient": "detach"},
}


def heads(*entries: dict[str, Any]) -> dict[str, Any]:
    tower = {"depth": 1, "width": 16}
    return {"model.heads": [{"tower": tower, **entry} for entry in entries]}


CLASSES, BOX = {"name": "classification", "kind": "classification"}, {"name": "box", "kind": "box"}
QUALITY = {"name": "quality", "kind": "quality"}
TOPOLOGIES = {
    **CASCADES,
    "box feeds class": heads(BOX, {**CLASSES, "input": "box"}),
    "three heads": heads(CLASSES, BOX, QUALITY),
    "quality reads class": heads(CLASSES, BOX, {**QUALITY, "input": "classification"}),
    "refined boxes": heads(BOX, {"name": "refined", "kind": "box", "input": "box"}, {**CLASSES, "input": "refined"}),
}


def step(
    config: RunConfig, *, dtype: torch.dtype = torch.float64, aligned: bool = False, num_images: int = 3
) -> tuple[StepLosses, Objective]:
    model = make.model(config)
    if dtype == torch.float64:
        model = model.double()
    objective = Objective(model, config, dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    model.train()
    return objective(make.batch(num_images), objective.base_weights, aligned=aligned), objective


def gradients(objective: Objective) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found


def compare(changes: dict[str, Any], tolerance: float, *, piece_cells: int = 40, **how: Any) -> None:
    joint, joint_objective = step(make.config(changes), **how)
    joint.total.backward()
    apart, apart_objective = step(make.config(changes | SEQUENTIAL | {"memory.piece_cells": piece_cells}), **how)
    apart.total.backward()
    torch.testing.assert_close(apart.losses.values, joint.losses.values, atol=1e-5, rtol=1e-5)
    expected = gradients(joint_objective)
    for name, gradient in gradients(apart_objective).items():
        scale = expected[name].abs().max().clamp(min=1e-6).item()
        torch.testing.assert_close(gradient, expected[name], atol=tolerance * max(1.0, scale), rtol=0, msg=name)
    torch.testing.assert_close(apart_objective.junction.gram, joint_objective.junction.gram, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("kind", ["quality", "focal", "sigmoid", "softmax"])
def test_equal_in_float64(topology: str, kind: str) -> None:
    compare({"loss.classification": kind, **TOPOLOGIES[topology]}, 1e-10)


@pytest.mark.parametrize("topology", ["parallel", "class feeds box", "three heads"])
def test_equal_for_a_localizer(topology: str) -> None:
    compare({**make.LOCALIZER, **TOPOLOGIES[topology]}, 1e-10, num_images=5, piece_cells=2)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equal_in_float32(topology: str) -> None:
    compare(TOPOLOGIES[topology], 1e-5, dtype=torch.float32)


@pytest.mark.parametrize("aligned", [False, True])
def test_equal_with_task_aligned_assignment(aligned: bool) -> None:
    compare({"assign.kind": "task_aligned"}, 1e-10, aligned=aligned)


@pytest.mark.parametrize("kind", ["uncertainty", "dwa", "gradnorm", "imtl_g", "mgda", "pcgrad", "cagrad"])
def test_equal_under_every_balancer(kind: str) -> None:
    compare({"balance.kind": kind}, 1e-7)  # their coefficients come from a float32 Gram matrix


def test_equal_with_clipped_heads_and_max_iou() -> None:
    compare({"optim.head_clip_norm": 1e-3, "assign.kind": "max_iou"}, 1e-7)


@pytest.mark.parametrize("aligned", [False, True])
def test_equal_under_autocast(aligned: bool) -> None:
    # Casts of the weights made while the assignment looks ahead must not be used again: they have no gradient.
    compare({"assign.kind": "task_aligned"}, 2e-2, dtype=torch.bfloat16, aligned=aligned)


@pytest.mark.parametrize("how", ["joint", "sequential"])
def test_accumulated_steps_add_up(how: str) -> None:
    changes = SEQUENTIAL if how == "sequential" else {}
    first, objective = step(make.config(changes))
    first.total.backward()
    once = {name: gradient.clone() for name, gradient in gradients(objective).items()}
    for module in objective.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    again = objective(make.batch(), objective.base_weights)
    again.total.backward()
    for name, gradient in gradients(objective).items():
        torch.testing.assert_close(gradient, 2 * once[name], atol=1e-10, rtol=1e-10, msg=name)


def test_a_scaled_loss_scales_the_gradients_once() -> None:
    plain, objective = step(make.config(SEQUENTIAL))
    plain.total.backward()
    scaled, scaled_objective = step(make.config(SEQUENTIAL))
    (1024 * scaled.total).backward()
    expected = gradients(objective)
    for name, gradient in gradients(scaled_objective).items():
        torch.testing.assert_close(gradient, 1024 * expected[name], atol=1e-9, rtol=1e-9, msg=name)


def test_a_batch_without_objects_reaches_the_box_head_with_zeros() -> None:
    """Levels and heads that no loss reaches must not break the junction, nor pass for missing gradients."""
    for changes in ({}, SEQUENTIAL):
        config = make.config(changes)
        objective = Objective(make.model(config), config, dtype=torch.float32)
        empty = make.batch()
        nothing = torch.zeros_like(empty.targets.is_object)
        batch = dataclasses.replace(empty, targets=dataclasses.replace(empty.targets, is_object=nothing))
        objective(batch, objective.base_weights).total.backward()
        assert all(gradient.isfinite().all() for gradient in gradients(objective).values())
        gram = objective.junction.gram
        assert gram is not None
        assert gram[1, 1] == 0  # the box head
        assert gram[0, 0] > 0


def test_levels_without_gradient_are_zero() -> None:
    """A branch that uses one level only."""

    def compute(piece: sequential.Piece, inputs: Any) -> tuple[Tensor, Tensor]:
        value = sum(
            (x.square().sum() for level, x in zip(piece.levels, inputs[0], strict=True) if level == 0),
            start=torch.zeros((), requires_grad=True),
        )
        return value, value.detach()[None]

    levels = [torch.randn(2, 1, 4, 4, requires_grad=True), torch.randn(2, 1, 2, 2, requires_grad=True)]
    pieces = sequential.cut([16, 4], [16, 4], num_images=2, max_cells=16)
    value, _ = sequential.run(compute, pieces, [levels], [])
    value.backward()
    assert levels[0].grad is not None
    assert levels[1].grad is not None
    torch.testing.assert_close(levels[0].grad, 2 * levels[0].detach())
    assert (levels[1].grad == 0).all()


def test_no_second_backward() -> None:
    losses, _ = step(make.config(SEQUENTIAL))
    losses.total.backward(retain_graph=True)
    with pytest.raises((DetectorError, RuntimeError), match="differentiated once"):
        losses.total.backward()


class WithDropout(head_module.CustomHead):
    """Draws a mask, and remembers what came out of it."""

    seen: list[Tensor]  # the rows of every call, set by the test

    def forward(self, features: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, tower = super().forward(features, upstream)
        rows = nn.functional.dropout(rows + 1, 0.5, training=self.training)
        type(self).seen.append(rows.detach())
        return rows, tower

    def loss(self, rows: Tensor, targets: Any, found: Tensor) -> Tensor:
        return rows.square().sum()


@pytest.mark.parametrize("changes", [{}, SEQUENTIAL])
def test_dropout_is_drawn_once_for_the_look_ahead_and_the_real_pass(changes: dict[str, Any]) -> None:
    custom = {"name": "noisy", "kind": "custom", "factory": f"{__name__}:WithDropout"}
    config = make.config({**heads(CLASSES, BOX, custom), "assign.kind": "task_aligned", **changes})
    WithDropout.seen = []
    step(config, dtype=torch.float32, aligned=True)
    half = len(WithDropout.seen) // 2
    assert half >= 1
    assert len(WithDropout.seen) == 2 * half
    for ahead, real in zip(WithDropout.seen[:half], WithDropout.seen[half:], strict=True):
        assert torch.equal(ahead, real)
        assert (ahead == 0).any()


def test_pieces_cover_every_level_and_image_once() -> None:
    pieces = sequential.cut([12, 3], [12, 3], num_images=5, max_cells=24)
    assert [(p.images, p.levels, p.rows) for p in pieces] == [
        (slice(0, 2), (0,), slice(0, 12)),
        (slice(2, 4), (0,), slice(0, 12)),
        (slice(4, 6), (0,), slice(0, 12)),
        (slice(0, 5), (1,), slice(12, 15)),
    ]


def test_an_image_larger_than_a_piece_is_a_piece() -> None:
    assert len(sequential.cut([12], [12], num_images=3, max_cells=1)) == 3
