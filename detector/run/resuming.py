"""Going on with a run: what must be the same, what may change, and what is said about it."""

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torchvision

from detector import config_file, files
from detector.config import RunConfig
from detector.errors import CheckpointError, ConfigError
from detector.model import model_file
from detector.train import schedule
from detector.train.checkpoint import Identity, Loaded
from detector.train.run_folder import RunFacts, RunFolder
from detector.train.state import TrainingState

MAY_CHANGE = ("data.workers", "checkpoint.")
"""Changes nothing in the weights."""
LAST_BITS = ("memory.",)
"""Changes the last bits of the weights."""
LENGTH = "length."


def identity(config: RunConfig, facts: RunFacts) -> Identity:
    teacher = config.distill.teacher
    return Identity(
        config=config_file.dump(config),
        classes=facts.label_map.names,
        splits={name: split.sha256 for name, split in facts.splits.items()},
        teacher=None if teacher is None else _sha256(Path(teacher)),
        device=facts.device.type,
        precision=facts.precision,
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "threads": str(torch.get_num_threads()),
            "processor": torch.backends.cpu.get_cpu_capability(),
        },
    )


def _sha256(teacher: Path) -> str:
    model_file.require_file(teacher)
    try:
        return files.sha256(teacher)
    except OSError as error:
        raise CheckpointError(f"{teacher}: cannot be read ({error.strerror}); check --teacher") from error


def require_same(folder: RunFolder, loaded: Loaded, now: Identity, config: RunConfig, *, resume: bool) -> list[str]:
    """See that the run can be gone on with, and return what is worth a word.

    Raises:
        ConfigError: a setting, the data or the classes differ; it names them.
        CheckpointError: the settings in the checkpoint are of another version.
    """
    before = loaded.identity
    try:
        settings = config_file.loads(before.config, source=str(loaded.path))
    except ConfigError as error:
        raise CheckpointError(f"{loaded.path}: was written by another version: {error}") from error
    remarks: list[str] = []
    for key, (old, new) in _differences(settings, config).items():
        if key.startswith(LAST_BITS):
            remarks.append(f"{key}: {old} before, {new} from now on; the last bits of the weights may differ")
        elif key.startswith(LENGTH) and not resume:
            raise ConfigError(
                f"{folder.path}: holds a run with {key} = {old}, now it is {new}; give --resume to go on with it, or "
                "choose another --out"
            )
        elif not key.startswith((LENGTH, *MAY_CHANGE)):
            raise ConfigError(
                f"{folder.path}: holds a run with {key} = {old}, now it is {new}; give the same to go on with it, or "
                "choose another --out"
            )
    _require_same_data(folder, before, now)
    if before.device != now.device:
        remarks.append(f"on {now.device} instead of {before.device}: the last bits of the weights may differ")
    remarks += [
        f"{name} {before.environment.get(name)} before, {value} now; the last bits of the weights may differ"
        for name, value in now.environment.items()
        if before.environment.get(name) != value
    ]
    return remarks


def replan(
    state: TrainingState, before: Identity, config: RunConfig, *, num_images: int
) -> tuple[TrainingState, list[str]]:
    """The state under another length, and what that means.

    Raises:
        ConfigError: more than the new length is done already, or a stage would come back.
    """
    old = config_file.loads(before.config, source="checkpoint")
    if old.length == config.length:
        return state, []
    plans = [schedule.plan(one, num_images=num_images) for one in (old, config)]
    steps, seconds = state.learner.steps, state.loop.seconds
    was, now = (plan.progress(steps, seconds) for plan in plans)
    if now >= 1 and not (was >= 1 and plans[0] == plans[1]):
        done = f"{steps} steps" if plans[1].steps is not None else f"{seconds / 60:.1f} minutes"
        raise ConfigError(f"length: {_length(config)}, but {done} are done already; name a longer one")
    _require_stage(state, config, now)
    rates = [
        one.optim.lr * state.learner.lr_scale * schedule.lr_factor(steps, progress, one.optim)
        for one, progress in ((old, was), (config, now))
    ]
    loop = dataclasses.replace(
        state.loop,
        evaluations=plans[1].evaluations_due(now),
        evaluations_since_reference=0,
        finished=False,
    )
    said = (
        f"length: {_length(config)} instead of {_length(old)}: step {steps} is now at {now:.0%} of the run instead of "
        f"{was:.0%}, and the learning rate goes on from {rates[1]:.1e} instead of {rates[0]:.1e}"
    )
    return dataclasses.replace(state, loop=loop), [said]


def _require_stage(state: TrainingState, config: RunConfig, progress: float) -> None:
    begins = sum(stage.share for stage in config.stages[: state.learner.stage])
    if progress < begins - 1e-9:
        name = config.stages[state.learner.stage].name
        raise ConfigError(
            f"length: the run is in stage {name!r}, which begins at {begins:.0%}, and would be at {progress:.0%} of "
            f"{_length(config)}; name a shorter one, for stages do not come back"
        )


def _require_same_data(folder: RunFolder, before: Identity, now: Identity) -> None:
    if before.classes != now.classes:
        raise ConfigError(
            f"{folder.path}: holds a run on the classes {', '.join(before.classes)}; the data now have "
            f"{', '.join(now.classes)}; give the same data to go on, or choose another --out"
        )
    for name in sorted(before.splits.keys() | now.splits.keys()):
        if before.splits.get(name) != now.splits.get(name):
            raise ConfigError(
                f"{folder.path}: holds a run on another data set: the {name} annotations are not those of "
                f"{folder.path / 'data.json'}; give the same data to go on, or choose another --out"
            )
    if before.teacher != now.teacher:
        raise ConfigError(f"{folder.path}: holds a run with another teacher; give the same file to go on")


def _differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[object, object]]:
    """Settings by dotted name that differ."""
    before, after = _flat(dataclasses.asdict(old)), _flat(dataclasses.asdict(new))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _flat(value: Any, prefix: str = "") -> dict[str, object]:
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in cast("Mapping[Any, Any]", value).items()]
    elif isinstance(value, tuple) and any(isinstance(item, Mapping) for item in cast("tuple[Any, ...]", value)):
        # Heads and stages go by their names.
        items = [(str(item["name"]), item) for item in cast("tuple[Any, ...]", value)]
    else:
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return flat or {prefix: value}


def _length(config: RunConfig) -> str:
    length = config.length
    for name, value in (("epochs", length.epochs), ("steps", length.steps), ("minutes", length.minutes)):
        if value is not None:
            return f"{value:g} {name}"
    raise AssertionError("a length has one of the three")
