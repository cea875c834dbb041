"""`memory.checkpoint` changes what is kept, and nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detector.benchmark.memory import Held, Live
from detector.train.objective import Objective
from tests.unit.train import make

HOW = ("none", "trunk", "heads", "all")


def step(
    changes: dict[str, Any], dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Gradients, buffers and the bytes that are held when the backward pass begins."""
    settings = make.config(changes)
    objective = Objective(make.model(settings), settings, dtype=dtype)
    model = objective.model.train()
    live = Live()
    held = Held(live, [*model.parameters(), *model.buffers()])
    with live, held.watching():
        losses = objective(make.batch(), objective.base_weights)
        now = held.now
        losses.total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, dict(model.named_buffers()), now


@pytest.mark.parametrize("how", HOW[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [{}, {"model.norm": "frozen"}, {"memory.heads": "sequential"}, {"model.heads.box.input": "classification"}],
)
def test_gradients_and_statistics_are_the_same(changes: dict[str, Any], how: str, dtype: torch.dtype) -> None:
    expected, buffers, _ = step(changes, dtype)
    found, again, _ = step(changes | {"memory.checkpoint": how}, dtype)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name]), name
    for name, buffer in again.items():
        assert torch.equal(buffer, buffers[name]), name


def test_less_is_held() -> None:
    held = {how: step({"memory.checkpoint": how})[2] for how in HOW}
    assert held["all"] < min(held["trunk"], held["heads"]) < max(held["trunk"], held["heads"]) < held["none"]
