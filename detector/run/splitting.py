"""Deal one COCO file into training, validation and test split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detector import files
from detector.data import coco, layout
from detector.data.columns import Columns, subset
from detector.errors import ConfigError, DataError
from detector.fitting import sampling
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

    Images are dealt at random. Training gets an image of every class before the others do, and files of one name stay
    together. Records are written as they are.

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
    _require_shares(val, test)
    run_folder.require_free(out)
    source = layout.explicit(annotations, images)
    columns = coco.read(source.annotations, source.images)
    rows = _dealt(columns, val, test, seed)
    for name, of_split in rows.items():
        if not of_split:
            raise DataError(
                f"{annotations}: has {len(columns)} images, which leaves none for {name}; change the shares"
            )
    tree = coco.read_json(source.annotations)
    parts = {name: _only(tree, of_split) for name, of_split in rows.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            files.write_text(out / f"{name}.json", json.dumps(part))
        (out / "images").symlink_to(source.images.resolve(), target_is_directory=True)
    except OSError as error:
        raise ConfigError(files.no_output(out, error)) from error
    return SplitOutcome(
        folder=out,
        images={name: len(part["images"]) for name, part in parts.items()},
        objects={name: len(part["annotations"]) for name, part in parts.items()},
        missing={name: _missing(columns, of_split) for name, of_split in rows.items()},
    )


def _require_shares(val: float, test: float) -> None:
    if not 0 < val < 1:
        raise ConfigError(f"--val must be between 0 and 1, got {val:g}")
    if not 0 <= test < 1:
        raise ConfigError(f"--test must be at least 0 and below 1, got {test:g}")
    if val + test >= 1:
        raise ConfigError(f"--val {val:g} and --test {test:g} leave nothing to train on; make them smaller")


def _dealt(columns: Columns, val: float, test: float, seed: int) -> dict[str, list[int]]:
    """Rows of each split, ascending."""
    train = sampling.part(columns, 1 - val - test, seed)
    rest = np.setdiff1d(np.arange(len(columns)), train)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(3,))))
    shuffled: list[int] = rng.permutation(rest).tolist()
    num_val = round(len(rest) * val / (val + test))
    dealt = {"train": train, "val": shuffled[:num_val]} | ({"test": shuffled[num_val:]} if test else {})
    split_of: dict[str, str] = {}
    for name, rows in dealt.items():
        for row in rows:
            split_of.setdefault(columns.file_name(row), name)
    return {name: [row for row in range(len(columns)) if split_of[columns.file_name(row)] == name] for name in dealt}


def _only(tree: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The file with some of its images and their annotations."""
    images = [tree["images"][row] for row in rows]
    ids = {_number(image["id"]) for image in images}
    kept = [one for one in tree["annotations"] if _number(one["image_id"]) in ids]
    return {**tree, "images": images, "annotations": kept}


def _number(written: Any) -> int:
    """An id, which some files write as text or with a point."""
    return int(written) if isinstance(written, int) else int(float(written))


def _missing(columns: Columns, rows: Sequence[int]) -> tuple[str, ...]:
    counts = np.bincount(columns.labels, minlength=len(columns.label_map))
    here = np.bincount(subset(columns, rows).labels, minlength=len(columns.label_map))
    names = columns.label_map.names
    return tuple(name for name, of_all, mine in zip(names, counts, here, strict=True) if of_all and not mine)
