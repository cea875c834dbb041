"""A step that was not finite, as a file: what is needed to compute it again, and what comes of it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from detector import config_file, files
from detector.errors import CheckpointError, ConfigError, DetectorError
from detector.model import detector as network
from detector.model import precision as precisions
from detector.model import torch_file
from detector.model.model_file import TrainedModel
from detector.model.torch_file import NotPlainError
from detector.printable import visible
from detector.train import stages
from detector.train.health import Suspect
from detector.train.learner import Learner
from detector.train.objective import Objective
from detector.types import Batch, Preprocess, Targets

FORMAT = "detector-nonfinite-1"
_MOST_BOXES = 8
"""That are shown to people."""
_MODEL = "model."
"""Of an objective: the names of what is the network's own begin so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A step that was computed again."""

    step: int
    stage: str
    lr: float
    images: tuple[str, ...]
    bad_boxes: tuple[str, ...]
    """Those of the batch that are not finite, with their images; last those that only fill its rows."""
    losses: dict[str, float]
    gradient_norms: dict[str, float]
    """Of the parts of the network."""
    first_module: str | None
    """The first whose output is not finite."""

    def text(self) -> str:
        shown = self.bad_boxes[:_MOST_BOXES]
        lines = [f"not finite already in the batch: {box}" for box in shown]
        if len(self.bad_boxes) > len(shown):
            lines.append(f"not finite already in the batch: {len(self.bad_boxes) - len(shown)} boxes more")
        lines += [f"step {self.step}{f' of stage {self.stage}' if self.stage else ''}, learning rate {self.lr:.2e}"]
        lines += [f"image     {name}" for name in self.images]
        lines += [f"loss      {name} {value:g}" for name, value in self.losses.items()]
        lines += [f"gradient  {name} {value:g}" for name, value in self.gradient_norms.items()]
        lines.append(f"first output that is not finite: {self.first_module or 'none'}")
        return "\n".join(visible(line) for line in lines)

    def values(self) -> dict[str, object]:
        """For programs; JSON has no NaN, so a number that is not finite becomes its name."""
        tree = dataclasses.asdict(self)
        for group in ("losses", "gradient_norms"):
            tree[group] = {k: v if abs(v) < float("inf") else str(v) for k, v in tree[group].items()}
        return tree


def write(
    folder: Path, suspect: Suspect, learner: Learner, trained: TrainedModel, precision: str, images: Sequence[str]
) -> Path:
    """Write the step down, whose batch is in host memory.

    Raises:
        OSError: the disk is full.
    """
    batch = suspect.batch
    content = {
        "format": FORMAT,
        "config": config_file.dump(trained.config),
        "precision": precision,
        "classes": list(trained.label_map.names),
        "preprocess": dataclasses.asdict(trained.preprocess),
        "step": suspect.step,
        "progress": suspect.progress,
        "stage": suspect.stage,
        "lr": suspect.lr,
        "files": list(images),
        "images": batch.images,
        "targets": {field.name: getattr(batch.targets, field.name) for field in dataclasses.fields(batch.targets)},
        "indices": batch.indices,
        "objective": {name: tensor.cpu() for name, tensor in learner.objective.state_dict().items()},
    }
    path = folder / f"nonfinite-step-{suspect.step}.pt"
    with files.written_whole(path) as temporary:
        torch_file.write(temporary, content)
    return path


def replay(path: Path) -> Replay:
    """Compute the step of a file again, on the CPU.

    Raises:
        CheckpointError: it is no such file.
        ConfigError: the step had a teacher.
    """
    content = _read(path)
    try:
        return _replayed(path, content)
    except DetectorError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: was damaged, or written by another version ({error})") from error


def _replayed(path: Path, content: Mapping[str, Any]) -> Replay:
    config = config_file.loads(content["config"], source=str(path))
    targets = Targets(**content["targets"])
    bad_boxes = tuple(_bad_boxes(targets, content["files"]))
    if config.distill.teacher is not None:
        why = f"not finite already in the batch: {bad_boxes[0]}" if bad_boxes else "all its boxes are finite"
        raise ConfigError(f"{path}: a step with a teacher cannot be replayed; {why}; look at its images in the file")
    num_classes, preprocess = len(content["classes"]), Preprocess(**content["preprocess"])
    state = cast("dict[str, Tensor]", content["objective"])
    of_model = {name.removeprefix(_MODEL): tensor for name, tensor in state.items() if name.startswith(_MODEL)}
    reason = network.misfit(config, num_classes=num_classes, preprocess=preprocess, state=of_model)
    if reason is not None:
        raise CheckpointError(f"{path}: its weights do not fit its settings: {reason}")
    model = network.build(config, num_classes=num_classes, preprocess=preprocess)
    objective = Objective(model, config, dtype=precisions.of_name(content["precision"]))
    objective.load_state_dict(state)
    number: int = content["stage"]
    stage = (config.stages or (stages.EVERYTHING,))[number]
    stages.set_learners(model, stage)
    batch = Batch(images=content["images"], targets=targets, indices=content["indices"], placements=())
    found: list[str] = []
    parts = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    hooks = [part.register_forward_hook(_finder(name, found)) for name, part in parts.items() if name]
    base = dict(zip(objective.terms, objective.base_weights, strict=True))
    is_aligned = config.assign.kind == "task_aligned" and content["progress"] >= config.assign.aligned_from
    weights = stages.weights(config.stages, content["progress"], base)
    step = objective(batch, weights, aligned=is_aligned)
    for hook in hooks:
        hook.remove()
    step.total.backward()
    return Replay(
        step=content["step"],
        stage=stage.name if config.stages else "",
        lr=content["lr"],
        images=tuple(content["files"]),
        bad_boxes=bad_boxes,
        losses=dict(zip(step.losses.terms, cast("list[float]", step.losses.values.tolist()), strict=True)),
        gradient_norms=_norms(objective),
        first_module=found[0] if found else None,
    )


def _bad_boxes(targets: Targets, names: Sequence[str]) -> Iterator[str]:
    """The network may be without fault then: no loss of such a box is finite."""
    is_there = targets.is_object if targets.is_crowd is None else targets.is_object | targets.is_crowd
    is_bad = ~targets.boxes.isfinite().all(dim=-1)
    # Padding has no loss, but zero times NaN is NaN.
    for what, chosen in (("box", is_bad & is_there), ("padding", is_bad & ~is_there)):
        for image, row in cast("list[list[int]]", chosen.nonzero().tolist()):
            corners = ", ".join(f"{number:g}" for number in cast("list[float]", targets.boxes[image, row].tolist()))
            yield f"{what} {row} of {names[image]} (x1, y1, x2, y2 = {corners})"


def _finder(name: str, found: list[str]) -> Any:
    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            found.append(name)

    return look


def _norms(objective: Objective) -> dict[str, float]:
    model = objective.model
    parts: dict[str, nn.Module] = {"backbone": model.backbone, "neck": model.neck}
    parts |= {f"heads.{head.name}": model.heads.head(head) for head in model.heads.configs}
    return {
        name: float(torch.nn.utils.get_total_norm([p.grad for p in part.parameters() if p.grad is not None]))
        for name, part in parts.items()
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch_file.read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except NotPlainError as error:
        raise CheckpointError(f"{path}: is no nonfinite-step file of a run: {error}") from error
    if not isinstance(content, dict) or cast("dict[str, Any]", content).get("format") != FORMAT:
        raise CheckpointError(f"{path}: is no nonfinite-step file of a run")
    return cast("dict[str, Any]", content)
