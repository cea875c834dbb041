"""The settings of a run whose recipe is fitted to the data and the device."""

import json
import os
from pathlib import Path

import torch

from detector import files
from detector.config import LengthConfig, RunConfig
from detector.data.columns import Columns
from detector.errors import ConfigError
from detector.fitting import choice, facts
from detector.fitting import fit as fits
from detector.fitting.choice import AutoRecipe, Fit
from detector.fitting.facts import Asked, Machine
from detector.train import run_folder
from detector.train.distributed import World
from detector.train.run_folder import RunFolder


def settled(config: RunConfig | AutoRecipe, columns: Columns, world: World, init: str) -> tuple[RunConfig, Fit | None]:
    """The settings as they are, or as they were chosen; all processes have those of the first."""
    if not isinstance(config, AutoRecipe):
        return config, None
    found = None
    if world.is_first:
        found = fits.fit(facts.of_columns(columns, machine_of(world)), _asked(config, init), config.changes)
    shared = world.share(found)
    assert shared is not None
    return shared.config, shared


def machine_of(world: World) -> Machine:
    device = world.device
    memory = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    return Machine(
        kind="cuda" if device.type == "cuda" else "cpu",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
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


def _asked(recipe: AutoRecipe, init: str) -> Asked:
    """The changes have been checked before: see `options.config_of`."""
    image_size, batch_size = (choice.named(recipe.changes, f"data.{name}") for name in ("image_size", "batch_size"))
    epochs, steps, minutes = (choice.named(recipe.changes, name) for name in choice.LENGTHS)
    length = None
    if (epochs, steps, minutes) != (None, None, None):
        length = LengthConfig(
            epochs=epochs if isinstance(epochs, int | float) else None,
            steps=steps if isinstance(steps, int) else None,
            minutes=minutes if isinstance(minutes, int | float) else None,
        )
    return Asked(
        image_size=image_size if isinstance(image_size, int) else None,
        batch_size=batch_size if isinstance(batch_size, int) else None,
        length=length,
        has_weights=init != "none",
    )
