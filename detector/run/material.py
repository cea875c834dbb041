"""What a run is made of: the data, and the facts that decide it besides the settings."""

import dataclasses
import math
from dataclasses import dataclass

from detector.config import RunConfig
from detector.data import check, coco, sampling
from detector.data.columns import Columns, subset
from detector.errors import ConfigError
from detector.fitting.choice import Fit
from detector.geometry import letterbox
from detector.model import precision
from detector.run import resuming
from detector.run.data_paths import DataPaths
from detector.train import run_folder, schedule
from detector.train.checkpoint import Identity, Loaded
from detector.train.distributed import World
from detector.types import Preprocess

_LAST_STRIDE = 32  # of the backbone
_BACKBONE_PARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """The data as they were read."""

    train: Columns
    val: Columns | None
    """None where there is none, or nothing in it to be found."""
    no_val: str = ""
    """Why there is none, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a run is made of."""

    config: RunConfig
    columns: Columns
    val_columns: Columns | None
    no_val: str
    """Why there are none; empty where there are."""
    facts: run_folder.RunFacts
    identity: Identity
    remarks: tuple[str, ...] = ()
    """On what was chosen for the user."""
    fit: Fit | None = None
    """Of the automatic recipe."""


def read(data: DataPaths) -> Splits:
    files = data.split("train")
    columns = coco.read(files.annotations, files.images)
    check.require_objects(columns)
    if not data.has("val"):
        cure = f"`detector split {files.annotations} --images {files.images} --out DIR` deals them into splits"
        return Splits(train=columns, val=None, no_val=f"none; {cure}")
    files = data.split("val")
    val = coco.read(files.annotations, files.images, label_map=columns.label_map)
    if val.is_crowd.all():
        what = "no objects but crowd regions" if len(val.is_crowd) else "no objects"
        return Splits(
            train=columns, val=None, no_val=f"{files.annotations} has {what}; check that it is the right file"
        )
    return Splits(train=columns, val=val)


def gather(
    splits: Splits, config: RunConfig, world: World, init: str, loaded: Loaded | None, fit: Fit | None = None
) -> Material:
    _require_fit(config, world)
    target = world.device
    columns, val_columns = splits.train, splits.val
    preprocess = Preprocess(canvas_hw=letterbox.choose_canvas(columns.sizes_hw, config.data.image_size))
    _require_statistics(config, preprocess.canvas_hw, world)
    is_choice_made = config.precision == "auto" and loaded is not None and loaded.identity.device == target.type
    dtype = (
        precision.of_name(loaded.identity.precision)  # the probe times this machine, and may now find otherwise
        if loaded is not None and is_choice_made
        else world.share(precision.resolve(config.precision, target))
    )
    if config.precision == "auto" and target.type == "cpu":
        precision.remember()
    facts = run_folder.RunFacts(
        device=target,
        dtype=dtype,
        init=init,
        label_map=columns.label_map,
        preprocess=preprocess,
        splits={"train": fingerprint(columns)} | ({"val": fingerprint(val_columns)} if val_columns else {}),
    )
    rows, remarks = _part(columns, config)
    return Material(
        config=config,
        columns=columns if rows is None else subset(columns, rows),
        val_columns=val_columns,
        no_val=splits.no_val,
        facts=facts,
        identity=resuming.identity(config, facts),
        remarks=remarks,
        fit=fit,
    )


def _part(columns: Columns, config: RunConfig) -> tuple[list[int] | None, tuple[str, ...]]:
    """The images that are learned from; None for all."""
    if config.data.share == 1:
        return None, ()
    rows = sampling.part(columns, config.data.share, config.seed)
    return rows, (f"train: {len(rows)} of these images are learned from (data.share {config.data.share:g})",)


def under(material: Material, config: RunConfig, *remarks: str) -> Material:
    """The same data under other settings of training; those that decide about the canvas stay."""
    _require_statistics(config, material.facts.preprocess.canvas_hw, World(device=material.facts.device))
    identity = resuming.identity(config, material.facts)
    return dataclasses.replace(material, config=config, identity=identity, remarks=(*material.remarks, *remarks))


def _require_fit(config: RunConfig, world: World) -> None:
    """See that several processes can share the work.

    Raises:
        ConfigError: a setting does not go with them.
    """
    if world.size == 1:
        return
    size = config.data.batch_size
    if size % world.size:
        raise ConfigError(
            f"data.batch_size = {size}: is that of all {world.size} processes together, of which each takes an equal "
            f"part; set {math.ceil(size / world.size) * world.size}"
        )
    if config.model.norm == "sync" and world.device.type == "cpu":
        raise ConfigError("model.norm = sync: torch has no such norm for a CPU; set batch, group or frozen")


def _require_statistics(config: RunConfig, canvas_hw: tuple[int, int], world: World) -> None:
    """A batch norm that learns needs more than one value a channel.

    Raises:
        ConfigError: the last features of the smallest batch are a single cell.
    """
    if not config.model.norm_mixes_images or config.model.frozen_stages == _BACKBONE_PARTS:
        return
    for progress in (0.0, 1.0):
        shape = schedule.batch_shape(progress, config, canvas_hw)
        cells = math.prod(math.ceil(side / _LAST_STRIDE) for side in shape.window_hw)
        seen = shape.size // (world.size if config.model.norm == "batch" else 1)
        if seen * cells == 1:
            height, width = shape.window_hw
            raise ConfigError(
                f"batches of one image of {width}x{height} leave the norms of the backbone a single value; "
                "raise data.batch_size or data.image_size, or set model.norm to group"
            )


def fingerprint(columns: Columns) -> run_folder.SplitFingerprint:
    return run_folder.fingerprint(columns.annotations, columns.images, images=len(columns), objects=len(columns.labels))
