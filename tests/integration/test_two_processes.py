"""Two processes with half of the batch each must learn what one process learns from all of it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from detector.config import RunConfig
from detector.model.detector import DetectionModel
from detector.train.distributed import World
from detector.train.objective import Objective
from detector.types import Batch, Targets
from tests.unit.train import make

# Statistics of a norm that learns belong to each process; frozen, they let the results be compared.
BASE = {"model.norm": "frozen"}
WAYS: dict[str, dict[str, Any]] = {
    "joint": {},
    "sequential": {"memory.heads": "sequential", "memory.piece_cells": 40},
    "cascade": {"memory.heads": "sequential", "memory.piece_cells": 40, "model.heads.box.input": "classification"},
    "balanced at the junction": {"memory.heads": "sequential", "balance.kind": "imtl_g", "optim.head_clip_norm": 1e-3},
    "learned weights": {"balance.kind": "uncertainty"},
}


def _part(batch: Batch, images: slice) -> Batch:
    t = batch.targets
    targets = Targets(
        boxes=t.boxes[images], labels=t.labels[images], is_object=t.is_object[images], is_crowd=t.is_crowd[images]
    )
    return dataclasses.replace(batch, images=batch.images[images], targets=targets, indices=batch.indices[images])


def _model(config: RunConfig) -> DetectionModel:
    model = make.model(config)
    for module in model.modules():  # a frozen norm that is the identity lets activations of random weights explode
        if hasattr(module, "running_var"):
            module.running_var.fill_(4.0)
    return model.double()


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for way, changes in WAYS.items():
        config = make.config(BASE | changes)
        objective = Objective(_model(config), config, dtype=torch.float32, world=World(rank=rank, size=2))
        wrapped = DistributedDataParallel(objective)
        wrapped.train()
        # Most objects in one half of the batch: the count must be that of both.
        half = _part(_uneven(), slice(3 * rank, 3 * rank + 3))
        for _ in range(2):  # the second step meets buckets that were rebuilt
            objective.zero_grad()
            wrapped(half, objective.base_weights).total.backward()
        gradients = {name: p.grad for name, p in objective.named_parameters()}
        torch.save({"gradients": gradients, "gram": objective.junction.gram}, f"{folder}/{way} {rank}.pt")
    torch.distributed.destroy_process_group()


def _uneven() -> Batch:
    """Four objects in the first half, one in the second."""
    batch = make.batch(6)
    is_object = batch.targets.is_object.clone()
    is_object[3] = False
    return dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, is_object=is_object))


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_process, args=(str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_gradients_equal_those_of_one_process(way: str, of_two: Path) -> None:
    joint = make.config(BASE | WAYS[way] | {"memory.heads": "joint"})
    alone = Objective(_model(joint), joint, dtype=torch.float32)
    alone.train()
    alone(_uneven(), alone.base_weights).total.backward()
    for rank in range(2):
        found = torch.load(of_two / f"{way} {rank}.pt", weights_only=True)
        torch.testing.assert_close(found["gram"], alone.junction.gram, rtol=1e-4, atol=1e-12)
        for name, parameter in alone.named_parameters():
            expected, gradient = parameter.grad, found["gradients"][name]
            assert isinstance(expected, Tensor), name
            torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=1e-5, msg=name)
