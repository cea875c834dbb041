"""A COCO file as flat numpy arrays: no Python object per image or box, so that loader processes share them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.types import LabelMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the file that was repaired or left out, and the first records it concerns."""

    what: str
    count: int
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.first) else ""
        return f"{self.what}: {self.count:,}" + (f" ({', '.join(self.first)}{more})" if self.first else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """What reading found. `listed == objects + crowd + dropped` always holds."""

    images: int
    background: int  # images without any object or crowd region
    listed: int  # annotations in the file
    objects: int
    crowd: int
    dropped_no_area: int
    dropped_outside: int
    dropped_tiny: int  # under one pixel wide or high once clipped to the image
    clipped: int  # left the image by more than a pixel and were cut to it
    missing_files: int
    findings: tuple[Finding, ...]

    @property
    def dropped(self) -> int:
        return self.dropped_no_area + self.dropped_outside + self.dropped_tiny

    def lines(self) -> Iterator[str]:
        """Short sentences for a log."""
        yield (
            f"{self.images} images ({self.background} without objects), "
            f"{self.objects} objects, {self.crowd} crowd regions"
        )
        yield from (str(finding) for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """One split. Row i owns the objects `offsets[i]` up to `offsets[i + 1]`."""

    annotations: Path
    images: Path
    image_ids: NDArray[np.int64]  # [I]
    name_bytes: NDArray[np.uint8]  # file names in UTF-8, one after another
    name_offsets: NDArray[np.int64]  # [I + 1]
    sizes_hw: NDArray[np.int32]  # [I, 2], of the image as it is shown (EXIF applied)
    offsets: NDArray[np.int64]  # [I + 1]
    boxes: NDArray[np.float32]  # [T, 4] xyxy, clipped to the image
    labels: NDArray[np.int64]  # [T]
    is_crowd: NDArray[np.bool_]  # [T]
    label_map: LabelMap
    """Labels as training counts them, with the category ids of this very file."""
    report: ReadReport

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, row: int) -> str:
        """As the COCO file has it, with forward slashes."""
        start, stop = self.name_offsets[row : row + 2]
        return self.name_bytes[start:stop].tobytes().decode()

    def path(self, row: int) -> Path:
        return self.images / self.file_name(row)

    def objects(self, row: int) -> slice:
        """Where the objects of an image stand in `boxes`, `labels` and `is_crowd`."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))


def subset(columns: Columns, rows: Sequence[int], keep: NDArray[np.bool_] | None = None) -> Columns:
    """Some of the images; the report stays that of the whole file.

    Args:
        columns: The split.
        rows: Its images that are wanted, in that order.
        keep: Bool [T]: objects of the split that come along; None for all.
    """
    kept = [
        [place for place in range(*columns.objects(row).indices(len(columns.labels))) if keep is None or keep[place]]
        for row in rows
    ]
    places = np.array([place for of_row in kept for place in of_row], np.int64)
    name_bytes, name_offsets = pack_names([columns.file_name(row) for row in rows])
    chosen = np.array(rows, np.int64)
    return replace(
        columns,
        image_ids=columns.image_ids[chosen],
        name_bytes=name_bytes,
        name_offsets=name_offsets,
        sizes_hw=columns.sizes_hw[chosen],
        offsets=np.cumsum([0, *(len(of_row) for of_row in kept)]),
        boxes=columns.boxes[places],
        labels=columns.labels[places],
        is_crowd=columns.is_crowd[places],
    )


def pack_names(names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes and offsets for `Columns`."""
    encoded = [name.encode() for name in names]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(name) for name in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets
