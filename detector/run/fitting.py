"""The settings of a run whose recipe is fitted to the data and the device."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from detector import files, recipes
from detector.config import RunConfig
from detector.data import loader, sampling
from detector.data.columns import Columns, subset
from detector.errors import ConfigError
from detector.fitting import choice, facts
from detector.fitting import fit as fits
from detector.fitting.choice import AutoRecipe, Choice, Fit
from detector.fitting.facts import Asked, Machine
from detector.fitting.levels import Pinned
from detector.run.batch_size import Refit
from detector.train import run_folder
from detector.train.distributed import World
from detector.train.run_folder import RunFolder

_BATCH_SIZE = "data.batch_size"


def settled(config: RunConfig | AutoRecipe, columns: Columns, world: World, init: str) -> tuple[RunConfig, Fit | None]:
    """The settings as they are, or as they were chosen; all processes have those of the first."""
    if not isinstance(config, AutoRecipe):
        return config, None
    found = fitted(config, columns, world, init) if world.is_first else None
    shared = world.share(found)
    assert shared is not None
    return shared.config, shared


def fitted(recipe: AutoRecipe, columns: Columns, world: World, init: str) -> Fit:
    """The recipe for those of the images that are learned from."""
    plain = choice.settle(recipes.small(), (), "", recipe.changes).config  # which reads `1e3` and `"8"` as numbers
    if plain.data.share < 1:
        columns = subset(columns, sampling.part(columns, plain.data.share, plain.seed))
    return fits.fit(facts.of_columns(columns, machine_of(world)), _asked(recipe, plain, init), recipe.changes)


def refit(config: RunConfig | AutoRecipe, columns: Columns, world: World, init: str) -> Refit | None:
    """How to fit the recipe around another batch size; None where it is fixed."""
    if not isinstance(config, AutoRecipe):
        return None

    def around(batch_size: int) -> Fit:
        found = fitted(AutoRecipe(changes=with_change(config.changes, _BATCH_SIZE, batch_size)), columns, world, init)
        largest = Choice(setting=_BATCH_SIZE, value=batch_size, reason="the largest that fits")
        return replace(found, choices=tuple(largest if one.setting == _BATCH_SIZE else one for one in found.choices))

    return around


def with_change(changes: Mapping[str, object], name: str, value: object) -> dict[str, object]:
    """The user's changes, and one that comes last and so wins."""
    return {other: old for other, old in changes.items() if other != name} | {name: value}


def machine_of(world: World) -> Machine:
    device = world.device
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    return Machine(
        kind="cuda" if device.type == "cuda" else "cpu",
        cores=loader.num_cores(),
        memory_bytes=memory,
        processes=world.size,
    )


def write(folder: Path, fit: Fit) -> None:
    """Write down what was chosen, and why.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        files.write_text(folder / choice.FILE, json.dumps(fit.values(), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(run_folder.why_unwritable(RunFolder(path=folder), error)) from error


def _asked(recipe: AutoRecipe, decided: RunConfig, init: str) -> Asked:
    """What of the settings `decided` the user has named."""
    changes = recipe.changes

    def is_asked(*names: str) -> bool:
        return any(choice.named(changes, name) is not None for name in names)

    pyramid, scales = decided.model.pyramid, decided.model.priors.scales
    return Asked(
        image_size=decided.data.image_size if is_asked("data.image_size") else None,
        batch_size=decided.data.batch_size if is_asked("data.batch_size") else None,
        length=decided.length if is_asked(*choice.LENGTHS) else None,
        backbone=decided.model.backbone if is_asked("model.backbone") else None,
        norm=decided.model.norm if is_asked("model.norm") else None,
        zoom=decided.augment.scale if is_asked("augment.scale") else None,
        levels=Pinned(
            first=pyramid.first_level if is_asked("model.pyramid.first_level") else None,
            last=pyramid.last_level if is_asked("model.pyramid.last_level") else None,
        ),
        # The middle one stands for several.
        prior_scale=sorted(scales)[len(scales) // 2] if is_asked("model.priors.scales") else None,
        optimizer=decided.optim.name,
        has_weights=init != "none",
    )
