"""The loss of a batch."""

import dataclasses

import torch

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
    config = make.config({**make.LOCALIZER, "model.batch_norm": "frozen"})  # live statistics would mix the images
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
