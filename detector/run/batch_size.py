"""The largest batch that fits, and the learning rate that goes with it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from detector import config_file
from detector.config import RunConfig
from detector.errors import ConfigError, DetectorError
from detector.fitting.choice import Fit
from detector.run import assembly, memory, preflight
from detector.run import material as materials
from detector.run.material import Material
from detector.train import scaling
from detector.train.checkpoint import Loaded
from detector.train.distributed import World

MARGIN = 0.9
"""Of the memory: later batches may be laid out less well."""
STEPS_IN_AN_EPOCH = 16
"""At least: fewer steps an epoch are fewer in the run, and a network from scratch needs thousands of them."""


Refit = Callable[[int], Fit]
"""The settings fitted anew around a batch size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """The batch size is to be found."""

    keep_lr: bool
    """The user named the learning rate."""


def of_run(config: RunConfig, loaded: Loaded, auto: Auto) -> RunConfig:
    """The settings with what was found when the run began."""
    before = config_file.loads(loaded.identity.config, source=str(loaded.path))
    lr = config.optim.lr if auto.keep_lr else before.optim.lr
    return _with(config, before.data.batch_size, lr)


def choose(material: Material, init: str, auto: Auto, world: World, refit: Refit | None = None) -> Material:
    """The material with the largest batch that fits, and a remark on it.

    Args:
        material: What was gathered for the batch size of the settings.
        init: First weights.
        auto: What of the rest the user named.
        world: A single process.
        refit: Of the automatic recipe, whose rate and length depend on the batch size too. Without it the rate alone
            follows.

    Raises:
        DetectorError: not even one image fits.
        ConfigError: several processes would have to agree on it.
    """
    if world.size > 1:
        raise ConfigError("--batch-size auto: several processes share a batch; give its size as a number")
    config, device = material.config, material.facts.device
    before = config.data.batch_size
    if device.type != "cuda":
        said = f"batch size: {before}, that of the settings: on a CPU a larger one saves no time"
        return materials.under(material, config, said)
    most = max(before, len(material.columns) // STEPS_IN_AN_EPOCH)
    size = largest(_trial(material, init, world), before, most)
    if size is None:
        raise DetectorError("not even a batch of one image fits into the memory of the device; lower --image-size")
    few = f"; twice as many would leave fewer than {STEPS_IN_AN_EPOCH} steps in an epoch"
    limit = few if size >= before and 2 * size > most else ""
    if size == before:
        return materials.under(material, config, f"batch size: {size}, that of the settings{limit}")
    if refit is None:
        factor = 1.0 if auto.keep_lr else scaling.lr_factor(config.optim.name, size, before)
        chosen, fit = _with(config, size, config.optim.lr * factor), None
    else:
        fit = refit(size)
        chosen = fit.config
    lr = chosen.optim.lr
    rate = f", optim.lr {lr:.2g} instead of {config.optim.lr:.2g}" if lr != config.optim.lr else ""
    made = materials.under(material, chosen, f"batch size: {size} instead of {before}{rate}{limit}")
    return dataclasses.replace(made, fit=fit)


def largest(fits: Callable[[int], bool], start: int, most: int) -> int | None:
    """The largest of `start` doubled or halved again and again that fits, up to `most`; None where 1 does not fit."""
    size = start
    while not fits(size):
        if size == 1:
            return None
        size //= 2
    if size < start:
        return size
    while 2 * size <= most and fits(2 * size):
        size *= 2
    return size


def _trial(material: Material, init: str, world: World) -> Callable[[int], bool]:
    made = assembly.build(material, init, world)
    device = material.facts.device

    def fits(size: int) -> bool:
        tried = materials.under(material, _with(material.config, size, material.config.optim.lr))
        memory.reset_peak(device)
        available = memory.available(device)
        assert available is not None
        try:
            with preflight.as_it_was(made.learner):
                preflight.rehearse(made.learner, tried)
        except torch.OutOfMemoryError:
            return False
        return (memory.peak(device) or 0) <= MARGIN * available

    return fits


def _with(config: RunConfig, size: int, lr: float) -> RunConfig:
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=size),
        optim=dataclasses.replace(config.optim, lr=lr),
    )
