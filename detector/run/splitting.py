"""Deal one COCO file into training, validation and test split."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector import files
from detector.data import coco, dealing, layout
from detector.data.columns import Columns, subset
from detector.errors import ConfigError, DataError
from detector.train import run_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOutcome:
    folder: Path
    images: Mapping[str, int]
    """Of each split."""
    objects: Mapping[str, int]
    """Annotations of each split, as they stand in the file."""
    missing: Mapping[str, tuple[str, ...]]
    """Classes that a split has no object of, where the whole has some."""


def split(
    annotations: Path, images: Path | None, out: Path, *, val: float, test: float = 0.0, seed: int = 0
) -> SplitOutcome:
    """Write `train.json`, `val.json` and, if wanted, `test.json` into a new folder, with a link to the images.

    Images are dealt at random, but each split gets one of every class as far as there are any, training first. Records
    are written as they are.

    Args:
        annotations: The COCO file.
        images: Folder of its images; None looks for it around the file.
        out: Empty, or not there yet.
        val: Share of the images.
        test: Share of the images.
        seed: Equal seeds deal alike.

    Raises:
        ConfigError: the shares leave nothing to a split, or the folder cannot be written.
        DataError: the file is wrong, or has too few images.
    """
    _require_sound(val, test, seed)
    run_folder.require_free(out)
    source = layout.explicit(annotations, images)
    columns = coco.read(source.annotations, source.images)
    shares = {"train": 1 - val - test, "val": val} | ({"test": test} if test else {})
    rows = dealing.deal(columns, shares, seed)
    for name, of_split in rows.items():
        if not of_split:
            num_files = len({columns.file_name(row) for row in range(len(columns))})
            raise DataError(
                f"{annotations}: names {num_files} image file{'s' * (num_files != 1)}, which leaves none for {name}; "
                f"{'change the shares' if num_files >= len(rows) else 'give more images'}"
            )
    tree = coco.read_json(source.annotations)
    parts = {name: coco.part(tree, of_split) for name, of_split in rows.items()}
    _write(out, parts, source.images)
    return SplitOutcome(
        folder=out,
        images={name: len(part["images"]) for name, part in parts.items()},
        objects={name: len(part["annotations"]) for name, part in parts.items()},
        missing={name: _missing(columns, of_split) for name, of_split in rows.items()},
    )


def _require_sound(val: float, test: float, seed: int) -> None:
    if not 0 < val < 1:
        raise ConfigError(f"--val must be between 0 and 1, got {val:g}")
    if not 0 <= test < 1:
        raise ConfigError(f"--test must be at least 0 and below 1, got {test:g}")
    if val + test >= 1:
        raise ConfigError(f"--val {val:g} and --test {test:g} leave nothing to train on; make them smaller")
    if seed < 0:
        raise ConfigError(f"--seed must be at least 0, got {seed}")


def _write(out: Path, parts: Mapping[str, Mapping[str, Any]], images: Path) -> None:
    """The link first: where that cannot be made, nothing is left behind."""
    was_there = out.is_dir()
    try:
        out.mkdir(parents=True, exist_ok=True)
        # A relative one holds where both are moved or mounted together.
        target = os.path.relpath(images.resolve(), out.resolve())
        (out / "images").symlink_to(target, target_is_directory=True)
    except OSError as error:
        if out.is_dir() and not was_there:
            out.rmdir()
        raise ConfigError(f"{files.no_output(out, error)} (a link to the images is made there)") from error
    try:
        for name, part in parts.items():
            files.write_text(out / f"{name}.json", json.dumps(part))
    except OSError as error:
        raise ConfigError(files.no_output(out, error)) from error


def _missing(columns: Columns, rows: Sequence[int]) -> tuple[str, ...]:
    counts = np.bincount(columns.labels, minlength=len(columns.label_map))
    here = np.bincount(subset(columns, rows).labels, minlength=len(columns.label_map))
    names = columns.label_map.names
    return tuple(name for name, of_all, mine in zip(names, counts, here, strict=True) if of_all and not mine)
