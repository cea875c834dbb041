"""Where the annotation file and the images of a split lie inside a data folder."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.errors import DataError

_SPLITS = ("train", "val", "test")
_VAL_NAMES = ("val", "valid", "validation")
_FIRST_FILE_NAME = re.compile(r'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
FOR_TRAIN = "name the files with --train-json, --val-json and --images"
FOR_EVAL = "name the files with --annotations and --images"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFiles:
    """One split of a data set on disk."""

    annotations: Path
    images: Path


def find(folder: Path, split: str, *, advice: str = FOR_TRAIN) -> SplitFiles:
    """Locate a split; the accepted layouts are tried in the order `data/README.md` lists them.

    Args:
        folder: The data set.
        split: train, val or test.
        advice: What an error message says of the way around the layouts.

    Raises:
        DataError: nothing fits, or several annotation files do.
    """
    if folder.is_file():
        raise DataError(f"{folder}: is a file, not a data folder; {advice}")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such data folder; check the path")
    for annotations, roots in _layouts(folder, _names(split)):
        if len(annotations) > 1:
            listed = ", ".join(str(path.relative_to(folder)) for path in annotations)
            raise DataError(f"{folder}: several annotation files for split {split!r}: {listed}; {advice}")
        if annotations:
            return SplitFiles(annotations=annotations[0], images=_image_root(annotations[0], roots))
    present = available_splits(folder) if advice == FOR_EVAL else ()
    other = f"give --split {present[-1]}, or " if present else ""
    raise DataError(f"{_nothing_found(folder, split)}; {other}{advice}")


def explicit(annotations: Path, images: Path | None = None) -> SplitFiles:
    """A split whose files the user names; without `images` they are looked for around the annotation file."""
    if images is None:
        parent = annotations.parent
        return SplitFiles(annotations=annotations, images=_image_root(annotations, _roots_beside(annotations, parent)))
    if not images.is_dir():
        raise DataError(f"{images}: no such image folder; check --images")
    return SplitFiles(annotations=annotations, images=images)


def available_splits(folder: Path) -> tuple[str, ...]:
    """Those of train, val and test for which the folder holds an annotation file."""
    return tuple(split for split in _SPLITS if any(annotations for annotations, _ in _layouts(folder, _names(split))))


def _names(split: str) -> tuple[str, ...]:
    return _VAL_NAMES if split in _VAL_NAMES else (split,)


def _layouts(folder: Path, names: Sequence[str]) -> Iterable[tuple[list[Path], list[Path]]]:
    """Candidate annotation files and image folders of each layout, in order."""
    for name in names:
        plain = folder / f"{name}.json"
        yield _existing([plain]), _roots_beside(plain, folder)
    coco = sorted({path for name in names for path in (folder / "annotations").glob(f"instances_{name}*.json")})
    roots = [root for path in coco for root in _coco_roots(folder, path, names)]
    yield [path for path in coco if path.is_file()], roots
    for name in names:
        yield _existing([folder / name / "_annotations.coco.json"]), [folder / name]


def _roots_beside(annotations: Path, folder: Path) -> list[Path]:
    stem = annotations.stem
    return [folder / "images", folder / "images" / stem, folder / stem, folder]


def _coco_roots(folder: Path, annotations: Path, names: Sequence[str]) -> list[Path]:
    suffixes = [annotations.stem.removeprefix("instances_"), *names]
    tried = [root for suffix in suffixes for root in (folder / suffix, folder / "images" / suffix)]
    return [*tried, folder / "images", folder]


def _existing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]


def _image_root(annotations: Path, roots: Sequence[Path]) -> Path:
    """The folder that holds the first image the file names; where that cannot be told, the first that exists."""
    folders = [root for root in roots if root.is_dir()]
    name = _first_file_name(annotations)
    holding = [root for root in folders if name and (root / name).is_file()]
    return (holding or folders or list(roots))[0]


def _first_file_name(annotations: Path) -> str | None:
    """A peek at the head of the file, so that finding a split does not read half a gigabyte."""
    try:
        with annotations.open("rb") as file:
            head = file.read(1 << 20).decode("utf-8", errors="replace")
        match = _FIRST_FILE_NAME.search(head)
        name = json.loads(match[1]) if match else None
    except (OSError, ValueError):
        return None
    # A name that could not be a path is reported with its record when the file is read.
    return name.replace("\\", "/") if isinstance(name, str) and "\0" not in name and len(name) < 1024 else None


def _nothing_found(folder: Path, split: str) -> str:
    name = _names(split)[0]
    looked = f"{name}.json, annotations/instances_{name}*.json, {name}/_annotations.coco.json"
    entries = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    listed = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    found = f"it holds {listed}" if entries else "it is empty"
    present = available_splits(folder)
    others = f" (splits present: {', '.join(present)})" if present else ""
    return f"{folder}: no annotation file for split {name!r}; looked for {looked}; {found}{others}"
