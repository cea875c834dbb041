"""From a row of the columns to an image on its canvas."""

import torch
from torch.utils.data import Dataset

from detector.config import AugmentConfig
from detector.data.augment import Augmenter
from detector.data.batch import Item
from detector.data.columns import Columns
from detector.data.decode import read_image
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

    def __init__(self, columns: Columns, preprocess: Preprocess, config: AugmentConfig, seed: int) -> None:
        self.columns = columns
        self._seed = seed
        self._augment = Augmenter(config, preprocess.canvas_hw, preprocess.padding)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, key: Key) -> Outcome:
        epoch, wanted, window_hw = key
        unreadable: list[str] = []
        for step in range(len(self)):
            index = (wanted + step) % len(self)
            try:
                sample = load_sample(self.columns, index)
            except DataError as error:
                unreadable.append(str(error))
                continue
            return Item(
                sample=self._augment(sample, (self._seed, epoch, wanted), window_hw),
                index=index,
                placement=Placement(scale=1.0, original_hw=window_hw),
                unreadable=tuple(unreadable),
            )
        last = unreadable[-1]
        return DataError(f"{self.columns.annotations}: none of its {len(self)} images can be read; the last: {last}")


class EvaluationSet(Dataset[Outcome]):
    """Letterboxed images in the order of the file; an unreadable one is an item without a sample."""

    def __init__(self, columns: Columns, preprocess: Preprocess) -> None:
        self.columns = columns
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, index: int) -> Outcome:
        canvas_hw = self._preprocess.canvas_hw
        try:
            sample = load_sample(self.columns, index)
        except DataError as error:
            height, width = self.columns.sizes_hw[index].tolist()
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
    image = read_image(columns.path(row))
    found = (image.shape[0], image.shape[1])
    height, width = columns.sizes_hw[row].tolist()
    if found != (height, width):
        hint = ": swapped, or its EXIF turn ignored" if found == (width, height) else ""
        raise DataError(
            f"{columns.path(row)}: is {found[1]}x{found[0]}, but {columns.annotations} says {width}x{height}{hint}; "
            "correct the size and boxes, or replace the image"
        )
    here = columns.objects(row)
    return Sample(image=image, boxes=columns.boxes[here], labels=columns.labels[here], is_crowd=columns.is_crowd[here])
