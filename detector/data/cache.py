"""Decoded training images on disk, no larger than any zoom will show them.

The cache is a folder of shelves, one for each data set and size. An entry is found by its file's path, length and time
of change, so a picture that was changed is decoded anew. What cannot be used is made again, and a disk that is full
only costs the time that the cache would have saved.
"""

import contextlib
import hashlib
import logging
import math
import os
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from detector import files
from detector.config import AugmentConfig, RunConfig
from detector.data.augment import turned_size
from detector.data.columns import Columns
from detector.data.letterbox import resize
from detector.errors import ConfigError
from detector.geometry import letterbox

Pixels = NDArray[np.uint8]

_log = logging.getLogger(__name__)
_WRITING_SECONDS = 3600  # an entry is written in a moment
_MARK = "images.cache"  # only a folder with this file in it is ever emptied
_HEADER = struct.Struct("<8sIIQ")  # magic, height, width, sum of the pixels' words
_MAGIC = b"DETIMG01"
_ALMOST_WHOLE = 0.9  # a size from which shrinking would cost more sharpness than it saves space
_SHARE_OF_FREE = 0.8  # of the free disk, that others may have some too


class ImageCache:
    """The shelf of one data set; its workers may read and write it at the same time."""

    def __init__(self, shelf: Path, columns: Columns, sizes_hw: NDArray[np.int64], num_rows: int) -> None:
        self._shelf = shelf
        self._columns = columns
        self._sizes_hw = sizes_hw
        self._num_rows = num_rows
        # Shared by the loader's processes, so that one of them warns and all of them stop.
        self._is_full = torch.zeros((), dtype=torch.bool).share_memory_()

    @classmethod
    def open(cls, columns: Columns, config: RunConfig, canvas_hw: tuple[int, int]) -> Self | None:
        """The cache that the settings ask for; None with a warning where the disk has no place for one.

        Raises:
            ConfigError: its folder lies inside that of the images.
        """
        if config.data.cache == "none":
            return None
        folder = root() if config.data.cache_folder is None else Path(config.data.cache_folder).expanduser()
        if folder.resolve().is_relative_to(columns.images.resolve()):
            raise ConfigError(f"data.cache_folder {folder} is inside the images {columns.images}; choose another one")
        sizes_hw = largest_sizes(columns.sizes_hw, config, canvas_hw)
        name = f"{columns.annotations.resolve()}\0{canvas_hw}\0{_shown(config.augment)}"
        shelf = folder / hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
        try:
            shelf.mkdir(parents=True, exist_ok=True)
            (shelf / _MARK).touch()
            limit = int(config.data.cache_gigabytes * 10**9)
            needed = np.cumsum(3 * sizes_hw.prod(axis=1))
            room = _make_room(shelf, limit, wanted=int(needed[-1]))
        except OSError as error:
            _log.warning("no image cache: %s: %s", folder, error.strerror)
            return None
        num_rows = int(np.searchsorted(needed, room, side="right"))
        if num_rows < len(columns):
            _log.warning(
                "the image cache in %s has room for %d of %d images; raise data.cache_gigabytes or free disk space",
                folder,
                num_rows,
                len(columns),
            )
        made = cls(shelf, columns, sizes_hw, num_rows)
        made._remove_stale()
        return made

    def _remove_stale(self) -> None:
        """Forget earlier versions of changed images, what a smaller limit has no place for, and cut-off writes."""
        current = {entry.name for entry in map(self._entry, range(self._num_rows)) if entry is not None}
        long_ago = time.time() - _WRITING_SECONDS
        with contextlib.suppress(OSError), os.scandir(self._shelf) as found:
            for one in found:
                is_cut_off = one.name.endswith(".tmp") and one.stat().st_mtime < long_ago
                if is_cut_off or (one.name.endswith(".raw") and one.name not in current):
                    Path(one.path).unlink(missing_ok=True)

    def image(self, row: int, read: Callable[[], Pixels]) -> Pixels | None:
        """The image at its size here, read by `read` and kept where it is not yet; None where it has no place."""
        if row >= self._num_rows:
            return None
        height, width = self._sizes_hw[row].tolist()
        entry = self._entry(row)
        found = None if entry is None else _load(entry, (height, width))
        if found is not None:
            return found
        if self._is_full:
            return None
        made = np.ascontiguousarray(resize(read(), (height, width)))
        if entry is not None:
            self._keep(entry, made)
        return made

    def _entry(self, row: int) -> Path | None:
        path = self._columns.path(row).resolve()
        try:
            status = path.stat()
        except (OSError, ValueError):  # whoever reads it will say why
            return None
        shown = tuple(self._columns.sizes_hw[row].tolist())
        key = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{shown}\0{tuple(self._sizes_hw[row].tolist())}"
        return self._shelf / f"{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:32]}.raw"

    def _keep(self, entry: Path, pixels: Pixels) -> None:
        try:
            if not self._shelf.is_dir():  # another data set needed the room
                self._shelf.mkdir(parents=True, exist_ok=True)
                (self._shelf / _MARK).touch()
            with files.written_whole(entry, durable=False) as temporary, temporary.open("wb") as file:
                file.write(_HEADER.pack(_MAGIC, pixels.shape[0], pixels.shape[1], _sum(pixels.reshape(-1))))
                file.write(pixels.data)
        except OSError as error:
            if not self._is_full:
                self._is_full.fill_(value=True)
                _log.warning("nothing more is added to the image cache %s: %s", self._shelf, error.strerror)


def root() -> Path:
    """Where caches of the user belong."""
    return files.cache_folder() / "images"


def _shown(config: AugmentConfig) -> str:
    """What the sizes of the images here follow from."""
    return f"{config.aspect}\0{_largest_zoom(config)}\0{config.quarter_turns > 0}"


def _largest_zoom(config: AugmentConfig) -> float:
    return max(config.scale[1], config.mosaic_scale[1]) if config.mosaic > 0 else config.scale[1]


def largest_sizes(sizes_hw: NDArray[np.int32], config: RunConfig, canvas_hw: tuple[int, int]) -> NDArray[np.int64]:
    """Height and width of each image at the largest zoom that augmentation draws; never more than it has."""
    low, high = config.augment.aspect
    zoom = _largest_zoom(config.augment) * math.sqrt(max(high, 1 / low))
    turns = (0, 1) if config.augment.quarter_turns > 0 else (0,)
    fitted = np.array(
        [max(letterbox.fit(turned_size(hw, k), canvas_hw).scale for k in turns) for hw in sizes_hw.tolist()]
    )
    factor = np.minimum(zoom * fitted, 1.0)
    factor[factor > _ALMOST_WHOLE] = 1.0
    return np.ceil(sizes_hw * factor[:, None] - 1e-6).astype(np.int64).clip(min=1)


def _make_room(shelf: Path, limit: int, *, wanted: int) -> int:
    """Remove the shelves that were not used for longest until `wanted` bytes fit; return how many do."""
    own = _num_bytes(shelf)
    others = [other for other in shelf.parent.iterdir() if other != shelf and (other / _MARK).is_file()]
    others.sort(key=lambda other: (other / _MARK).stat().st_mtime)
    sizes = [_num_bytes(other) for other in others]

    def room() -> int:
        free = int(shutil.disk_usage(shelf).free * _SHARE_OF_FREE) + own
        return min(limit - sum(sizes), free)

    while others and room() < wanted:
        shutil.rmtree(others.pop(0), ignore_errors=True)
        sizes.pop(0)
    return max(0, room())


def _num_bytes(shelf: Path) -> int:
    with os.scandir(shelf) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())


def _load(entry: Path, size_hw: tuple[int, int]) -> Pixels | None:
    """The pixels of an entry; None where there is none, or not a whole one."""
    try:
        content = np.fromfile(entry, np.uint8)
    except OSError:
        return None
    height, width = size_hw
    pixels = content[_HEADER.size :]
    if len(pixels) != 3 * height * width:
        return None
    if content[: _HEADER.size].tobytes() != _HEADER.pack(_MAGIC, height, width, _sum(pixels)):
        return None
    return pixels.reshape(height, width, 3)


def _sum(pixels: Pixels) -> int:
    """A sum of 8-byte words sees every lost page and costs a tenth of a CRC."""
    whole = len(pixels) // 8 * 8
    words = int(pixels[:whole].view(np.uint64).sum(dtype=np.uint64))
    return (words + int.from_bytes(pixels[whole:].tobytes(), "little")) % 2**64
