"""From a row of the columns to an image on its canvas."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detector.config import AugmentConfig
from detector.data import augment
from detector.data.augment import Augmenter
from detector.data.batch import Item
from detector.data.cache import ImageCache
from detector.data.columns import Columns
from detector.data.decode import ImageFile
from detector.data.letterbox import place
from detector.errors import DataError
from detector.geometry import letterbox
from detector.types import Placement, Preprocess, Sample

Key = tuple[int, int, tuple[int, int]]
"""(epoch, index, height and width of the part of the canvas that is shown)"""

# An exception that crosses from a loader process comes out wrapped in a traceback; as a value it stays one line.
Outcome = Item | DataError


class TrainingSet(Dataset[Outcome]):
    """Augmented images, by key.

    Instead of an image that cannot be read comes the next one that can, in the order of the file.
    """

    def __init__(
        self,
        columns: Columns,
        preprocess: Preprocess,
        config: AugmentConfig,
        seed: int,
        cache: ImageCache | None = None,
    ) -> None:
        self._columns = columns
        self._seed = seed
        self._augment = Augmenter(config, preprocess.canvas_hw, preprocess.padding)
        self._cache = cache

    def __len__(self) -> int:
        return len(self._columns)

    def __getitem__(self, key: Key) -> Outcome:
        epoch, wanted, window_hw = key
        unreadable: list[str] = []
        for step in range(len(self)):
            index = (wanted + step) % len(self)
            try:
                sample = self._sample(index, (self._seed, epoch, wanted), window_hw)
            except DataError as error:
                unreadable.append(str(error))
                continue
            return Item(
                sample=sample,
                index=index,
                placement=Placement(scale=1.0, original_hw=window_hw),
                unreadable=tuple(unreadable),
            )
        last = unreadable[-1]
        return DataError(f"{self._columns.annotations}: none of its {len(self)} images can be read; the last: {last}")

    def _sample(self, row: int, rng_key: augment.Key, window_hw: tuple[int, int]) -> Sample:
        columns = self._columns
        if self._cache is not None:
            kept = self._cache.image(row, lambda: _open(columns, row).pixels())
            if kept is not None:
                height, width = columns.sizes_hw[row].tolist()
                scale_xy = (kept.shape[1] / width, kept.shape[0] / height)
                return self._augment(_with_objects(columns, row, kept, scale_xy), rng_key, window_hw)
        file = _open(columns, row)
        change = self._augment.draw(file.size_hw, rng_key, window_hw)
        made = file.reduced(augment.reduction(change.window))
        sample = _with_objects(columns, row, made.pixels, (1 / made.factor, 1 / made.factor))
        return self._augment.apply(sample, replace(change, window=augment.reduced(change.window, made.factor)))


class EvaluationSet(Dataset[Outcome]):
    """Letterboxed images in the order of the file; an unreadable one is an item without a sample."""

    def __init__(self, columns: Columns, preprocess: Preprocess) -> None:
        self._columns = columns
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._columns)

    def __getitem__(self, index: int) -> Outcome:
        canvas_hw = self._preprocess.canvas_hw
        try:
            sample = load_sample(self._columns, index)
        except DataError as error:
            height, width = self._columns.sizes_hw[index].tolist()
            placement = letterbox.fit((height, width), canvas_hw)
            return Item(sample=None, index=index, placement=placement, unreadable=(str(error),))
        canvas, placement = place(sample.image, canvas_hw, self._preprocess.padding)
        boxes = letterbox.boxes_to_canvas(torch.from_numpy(sample.boxes), placement).numpy()
        on_canvas = Sample(image=canvas, boxes=boxes, labels=sample.labels, is_crowd=sample.is_crowd)
        return Item(sample=on_canvas, index=index, placement=placement)


def load_sample(columns: Columns, row: int) -> Sample:
    """One image as it is on disk, with its objects.

    Raises:
        DataError: the file cannot be read, or is not of the size the annotations were made for.
    """
    return _with_objects(columns, row, _open(columns, row).pixels())


def _open(columns: Columns, row: int) -> ImageFile:
    file = ImageFile(columns.path(row))
    height, width = columns.sizes_hw[row].tolist()
    if file.size_hw != (height, width):
        found = f"{file.size_hw[1]}x{file.size_hw[0]}"
        hint = ": swapped, or its EXIF turn ignored" if file.size_hw == (width, height) else ""
        raise DataError(
            f"{columns.path(row)}: is {found}, but {columns.annotations} says {width}x{height}{hint}; "
            "correct the size and boxes, or replace the image"
        )
    return file


def _with_objects(
    columns: Columns, row: int, image: NDArray[np.uint8], scale_xy: tuple[float, float] = (1.0, 1.0)
) -> Sample:
    """The image with its objects, whose boxes are brought to the scale at which it is."""
    here = columns.objects(row)
    scale = np.array([*scale_xy, *scale_xy], np.float64)
    return Sample(
        image=image,
        boxes=(columns.boxes[here] * scale).astype(np.float32),
        labels=columns.labels[here],
        is_crowd=columns.is_crowd[here],
    )
