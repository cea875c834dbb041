"""The network of a run with what changes it, from its first weights or where the run stopped."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from detector.errors import CheckpointError
from detector.model import compiled, pretrained
from detector.model import detector as network
from detector.model.model_file import TrainedModel
from detector.model.transfer import TakenOver
from detector.run.material import Material
from detector.train import distillation, schedule
from detector.train.checkpoint import Loaded
from detector.train.distributed import World
from detector.train.learner import Learner
from detector.train.state import TrainingState


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """A run that is gone on with."""

    loaded: Loaded
    state: TrainingState
    """That of the checkpoint, under the length that is wanted now."""
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What learns, and how it is written down."""

    trained: TrainedModel
    learner: Learner
    weights: TakenOver | None
    """What `--init` brought."""


def build(material: Material, init: str, world: World, past: Past | None = None) -> Assembly:
    config, facts = material.config, material.facts
    torch.manual_seed(config.seed)
    model = network.build(config, num_classes=len(facts.label_map), preprocess=facts.preprocess)
    weights = pretrained.initialise(model, init, config, facts.label_map.names) if past is None else None
    model.to(facts.device)
    trained = TrainedModel(model=model, config=config, label_map=facts.label_map, preprocess=facts.preprocess)
    learner = _learner(trained, facts.dtype, world)
    if past is not None:
        try:
            learner.restore(past.state.learner)
        except CheckpointError as error:
            raise CheckpointError(f"{past.loaded.path}: {error}") from error
    return Assembly(trained=trained, learner=learner, weights=weights)


def compile_network(assembly: Assembly, material: Material) -> compiled.Trial | None:
    """Compile it where that was asked for and pays."""
    trained, facts = assembly.trained, material.facts
    if not trained.config.compile:
        return None
    shape = schedule.batch_shape(0.0, trained.config, trained.preprocess.canvas_hw)
    size = math.ceil(shape.size / trained.config.memory.micro_batches / assembly.learner.world.size)
    images = torch.zeros(size, 3, *shape.window_hw, dtype=torch.uint8, device=facts.device)
    return compiled.for_training(trained.model, images, dtype=facts.dtype)


def _learner(trained: TrainedModel, dtype: torch.dtype, world: World) -> Learner:
    path = trained.config.distill.teacher
    teacher = None if path is None else distillation.load(Path(path), trained, dtype=dtype)
    return Learner(trained.model, trained.config, dtype=dtype, teacher=teacher, world=world)
