"""The loss of a batch."""

import dataclasses

import pytest
import torch

from detector.geometry import boxes, codec
from detector.loss import classification
from detector.targets import assign, encode
from detector.train.objective import Objective
from detector.types import Batch
from tests.unit.train import make


def first(batch: Batch, count: int) -> Batch:
    t = batch.targets
    targets = dataclasses.replace(
        t,
        boxes=t.boxes[:count],
        labels=t.labels[:count],
        is_object=t.is_object[:count],
        is_crowd=t.is_crowd[:count],
    )
    return dataclasses.replace(batch, images=batch.images[:count], targets=targets)


def test_an_image_without_object_teaches_a_localizer_nothing() -> None:
    config = make.config({**make.LOCALIZER, "model.norm": "frozen"})  # live statistics would mix the images
    batch = make.batch(3)
    assert batch.targets.is_object.any(dim=1).tolist() == [True, True, False]
    gradients: list[list[torch.Tensor]] = []
    for part in (batch, first(batch, 2)):
        objective = Objective(make.model(config).double(), config, dtype=torch.float32)
        losses = objective(part, objective.base_weights)
        losses.total.backward()
        assert losses.total > 0
        gradients.append([p.grad for p in objective.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for with_it, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("how", ["joint", "sequential"])
def test_the_target_of_a_quality_loss_needs_no_box_loss(how: str) -> None:
    """The box head must speak even in a stage in which it is not taught."""
    config = make.config({"memory.heads": how})
    gradients: list[list[torch.Tensor]] = []
    for weights in ((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)):
        objective = Objective(make.model(config).double(), config, dtype=torch.float32)
        objective(make.batch(), weights).total.backward()
        gradients.append([p.grad for p in objective.model.heads["classification"].parameters() if p.grad is not None])
        of_box = [p.grad for p in objective.model.heads["box"].parameters()]
        assert all((g is None or not g.any()) == (weights[1] == 0) for g in of_box)
    for with_boxes, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_boxes, without, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("how", ["joint", "sequential"])
def test_the_classes_learn_the_iou_of_the_boxes_of_this_step(how: str) -> None:
    """Whatever the order of the heads in the configuration: the box head has spoken before."""
    config = make.config({"memory.heads": how, "memory.piece_cells": 40})
    assert config.model.heads[0].kind == "classification"
    objective = Objective(make.model(config), config, dtype=torch.float32)
    objective.train()
    batch = make.batch()
    with torch.no_grad():
        prediction = objective.model(batch.images)
        priors = objective.model.priors(make.HW)
        assignment = assign.assign(batch.targets, priors, config.assign)
        found = codec.decode(prediction.deltas, priors.boxes, config.model.delta_std)
        expected = classification.quality_focal(
            prediction.logits,
            encode.matched_labels(batch.targets, assignment),
            assignment.is_positive,
            (~assignment.is_ignored).float(),
            quality=boxes.iou(found, encode.matched_boxes(batch.targets, assignment)),
            gamma=config.loss.focal_gamma,
        )
    values = objective(batch, objective.base_weights).losses.values
    torch.testing.assert_close(values[0], expected / assignment.is_positive.sum(), rtol=1e-4, atol=1e-6)
