"""Operations and host waits of a step, ours and torchvision's, counted on any device: they do not depend on it."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detector import config_file
from detector.benchmark import peer
from detector.benchmark.environment import Environment
from detector.benchmark.operations import BACKWARD, FORWARD, Operations
from detector.model import inference
from detector.train.learner import Learner
from detector.types import Placement

_CPU = torch.device("cpu")
_SIZE = 64  # pixels; the counts do not depend on it
NETWORK, IMAGES, PRIORS, JUNCTION = "network", "images", "priors", "junction"
_HEADINGS = {
    FORWARD: "matching, losses",
    JUNCTION: "junction",
    NETWORK: "trunk, heads",
    IMAGES: "images",
    PRIORS: "priors",
    BACKWARD: "backward",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is counted."""

    batch_size: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One step of one network."""

    waits: int
    """Times that the host must know a value on the device."""
    operations: Mapping[str, int]
    """By part; what stands in no other part, matching and losses or decoding, is `forward`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run."""

    environment: Environment
    settings: Settings
    training: Mapping[str, Count]
    inference: Mapping[str, Count]


def measure(settings: Settings, say: Callable[[str], None]) -> Report:
    """Count; `say` is told what goes on."""
    environment = Environment.here(_CPU)
    state = peer.theirs(_SIZE, _CPU).state_dict()
    given = peer.inputs(settings.batch_size, _SIZE, _CPU)
    say("torchvision")
    their_training, their_inference = _theirs(state, given)
    say("detector")
    return Report(
        environment=environment,
        settings=settings,
        training={"torchvision": their_training, "detector": _our_training(state, given)},
        inference={"torchvision": their_inference, "detector": _our_inference(state, given)},
    )


def _theirs(state: dict[str, Tensor], given: peer.Inputs) -> tuple[Count, Count]:
    model = peer.theirs(_SIZE, _CPU, state)
    parts: dict[str, list[nn.Module]] = {
        NETWORK: [model.backbone, model.head],
        IMAGES: [model.transform],
        PRIORS: [model.anchor_generator],
    }
    model.train()

    def train() -> None:
        losses: dict[str, Tensor] = model(given.images, given.targets)
        torch.stack(list(losses.values())).sum().backward()

    training = _count(train, parts)
    model.eval()
    return training, _count(partial(_without_gradient, model, given.images), parts)


def _our_training(state: dict[str, Tensor], given: peer.Inputs) -> Count:
    config = config_file.override(peer.config(), {"precision": "float32"})
    model = peer.ours(state, config, _SIZE, _CPU)
    learner = Learner(model, config, dtype=torch.float32)
    learner.learn(given.ours, 0.5)  # makes what is kept from step to step
    operations, objective = Operations(), learner.objective
    model.normalise = operations.named(IMAGES, model.normalise)
    objective.junction.combine = operations.named(JUNCTION, objective.junction.combine)

    def train() -> None:
        objective(given.ours, objective.base_weights).total.backward()

    return _count(train, {NETWORK: [model.backbone, model.neck, *model.heads.values()]}, operations)


def _our_inference(state: dict[str, Tensor], given: peer.Inputs) -> Count:
    config, images = peer.config(), given.ours.images
    model = peer.ours(state, config, _SIZE, _CPU)
    operations = Operations()
    model.normalise = operations.named(IMAGES, model.normalise)
    placements = [Placement(scale=1.0, original_hw=(_SIZE, _SIZE))] * len(images)
    trained = peer.whole(model, config, _SIZE)
    find = partial(inference.find_packed, trained, images, placements, dtype=torch.float32)
    find()
    return _count(find, {NETWORK: [model.backbone, model.neck, *model.heads.values()]}, operations)


@torch.inference_mode()
def _without_gradient(model: nn.Module, images: object) -> None:
    model(images)


def _count(
    step: Callable[[], object], parts: Mapping[str, list[nn.Module]], operations: Operations | None = None
) -> Count:
    operations = operations or Operations()
    with ExitStack() as stack:
        stack.enter_context(operations)
        for name, modules in parts.items():
            stack.enter_context(operations.modules(name, modules))
        step()
    counts = {region: counter.total() for region, counter in operations.counts.items()}
    return Count(waits=operations.waits.total(), operations=counts)


def as_json(report: Report) -> dict[str, object]:
    return dataclasses.asdict(report)


def of_json(tree: Mapping[str, Any]) -> Report:
    """The report that `as_json` was given, after a way through a file.

    Raises:
        KeyError, TypeError: it is another file, or an older one.
    """
    counts = {task: {name: Count(**count) for name, count in tree[task].items()} for task in ("training", "inference")}
    settings, environment = Settings(**tree["settings"]), Environment(**tree["environment"])
    return Report(
        environment=environment, settings=settings, training=counts["training"], inference=counts["inference"]
    )


def table(report: Report) -> str:
    blocks = [_block("training step", report.training), _block("images to detections", report.inference)]
    return "\n\n".join([f"{report.environment.text()}\nbatch {report.settings.batch_size}", *blocks])


def _block(title: str, counts: Mapping[str, Count]) -> str:
    regions = [region for region in _HEADINGS if any(count.operations.get(region) for count in counts.values())]
    width = max(len(title), *map(len, counts))
    lines = [f"{title:<{width}}  host waits  " + "  ".join(_HEADINGS[region] for region in regions)]
    for name, count in counts.items():
        cells = (f"{count.operations.get(region, 0):>{len(_HEADINGS[region])}}" for region in regions)
        lines.append(f"{name:<{width}}  {count.waits:>10}  " + "  ".join(cells))
    return "\n".join(lines)
