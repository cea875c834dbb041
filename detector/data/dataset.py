"""From a row of the columns to an image on its canvas."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from detector.config import AugmentConfig
from detector.data import augment, mix
from detector.data.augment import Augmenter, Change
from detector.data.batch import Item
from detector.data.cache import ImageCache
from detector.data.columns import Columns
from detector.data.decode import ImageFile, Reduced
from detector.data.letterbox import place
from detector.data.mix import CutOut, Donor, Mixer, Plan, Tile
from detector.errors import DataError
from detector.geometry import letterbox
from detector.types import Placement, Preprocess, Sample


class Key(NamedTuple):
    """What one training sample is made from."""

    epoch: int
    row: int
    window_hw: tuple[int, int]
    """Of the part of the canvas that is shown."""
    is_clean: bool = False
    """Whole, and without parts of other images."""


# An exception that crosses from a loader process comes out wrapped in a traceback; as a value it stays one line.
Outcome = Item | DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """An image of which a part may be read, and the scale at which the objects of its file lie on it."""

    size_hw: tuple[int, int]
    scale_xy: tuple[float, float]
    read: Callable[[int], Reduced]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """An image on its canvas, or on its part of one."""

    row: int
    sample: Sample
    change: Change


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
        self.columns = columns
        self._seed = seed
        self._config = config
        self._augment = Augmenter(config, preprocess.canvas_hw, preprocess.padding)
        self._mixer = Mixer(columns, config)
        self._cache = cache

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, key: Key) -> Outcome:
        rng_key = (self._seed, key.epoch, key.row)
        plan = self._mixer.plan(rng_key, key.window_hw, is_clean=key.is_clean)
        unreadable: list[str] = []
        shown: list[_Shown] = []
        for tile in plan.tiles:
            found = self._first_readable(rng_key, tile, unreadable)
            if found is None:
                last = unreadable[-1]
                none = f"none of its {len(self)} images can be read"
                return DataError(f"{self.columns.annotations}: {none}; the last: {last}")
            shown.append(found)
        return Item(
            sample=self._mixed(plan, shown, rng_key, unreadable),
            index=shown[0].row,
            placement=Placement(scale=1.0, original_hw=key.window_hw),
            unreadable=tuple(unreadable),
        )

    def _first_readable(self, rng_key: augment.Key, tile: Tile, unreadable: list[str]) -> _Shown | None:
        """What is shown of the wanted image or the next one; why others cannot be read is added to the list."""
        wanted = rng_key[2] if tile.row is None else tile.row
        for step in range(len(self)):
            row = (wanted + step) % len(self)
            try:
                return self._shown(row, rng_key, tile)
            except DataError as error:
                unreadable.append(str(error))
        return None

    def _shown(self, row: int, rng_key: augment.Key, tile: Tile) -> _Shown:
        source = self._source(row)
        drawn = self._augment.draw(source.size_hw, rng_key, tile.hw, part=tile.part, framing=tile.framing)
        change = mix.against_the_seams(drawn, tile)
        made = source.read(augment.reduction(change.window))
        sample = _with_objects(self.columns, row, made.pixels, _scaled(source.scale_xy, made.factor))
        return _Shown(row=row, sample=self._augment.apply(sample, change.on_reduced(made.factor)), change=change)

    def _mixed(self, plan: Plan, shown: Sequence[_Shown], rng_key: augment.Key, unreadable: list[str]) -> Sample:
        samples = [one.sample for one in shown]
        sample = samples[0] if len(samples) == 1 else mix.mosaic(plan.tiles, samples, plan.canvas_hw)
        if plan.donor is not None:
            rng = mix.placing(rng_key)
            try:
                cut_outs = self._cut_outs(plan.donor, rng)
            except DataError as error:
                unreadable.append(str(error))
            else:
                grounds = mix.pictures(plan.tiles, [one.change for one in shown])
                sample = mix.copy_paste(sample, cut_outs, grounds, rng, self._config)
        if plan.blend is not None:
            other = self._first_readable(rng_key, plan.blend.tile, unreadable)
            assert other is not None, "the image itself was read a moment ago"
            sample = mix.mixup(sample, other.sample, plan.blend.share)
        return sample

    def _cut_outs(self, donor: Donor, rng: np.random.Generator) -> list[CutOut]:
        """The objects with what lies around them; one that would be no pixel wide is left out."""
        columns, feather = self.columns, self._config.copy_paste.feather
        source = self._source(donor.row)
        scale = np.array(source.scale_xy * 2, np.float32)
        around = [mix.around(columns.boxes[one] * scale, source.size_hw, feather) for one in donor.objects]
        changes = [self._augment.draw_cut_out(source.size_hw, rng, one) for one in around]
        made = source.read(min(augment.reduction(change.window) for change in changes))
        sample = _with_objects(columns, donor.row, made.pixels, _scaled(source.scale_xy, made.factor))
        here = columns.objects(donor.row)
        by_position = replace(sample, labels=np.arange(here.start, here.stop))
        found: list[CutOut] = []
        for one, change in zip(donor.objects, changes, strict=True):
            cut = self._augment.apply(by_position, change.on_reduced(made.factor))
            labelled = replace(cut, labels=columns.labels[cut.labels])
            found += [CutOut(sample=labelled, box=box) for box in cut.boxes[cut.labels == one]]
        return found

    def _source(self, row: int) -> _Source:
        columns = self.columns
        if self._cache is not None:
            kept = self._cache.image(row, lambda: _open(columns, row).pixels())
            if kept is not None:
                (height, width), (its_height, its_width) = columns.sizes_hw[row].tolist(), kept.shape[:2]
                return _Source(
                    size_hw=(its_height, its_width),
                    scale_xy=(its_width / width, its_height / height),
                    read=lambda _: Reduced(pixels=kept, factor=1),
                )
        file = _open(columns, row)
        return _Source(size_hw=file.size_hw, scale_xy=(1.0, 1.0), read=file.reduced)


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


def _scaled(scale_xy: tuple[float, float], factor: int) -> tuple[float, float]:
    return scale_xy[0] / factor, scale_xy[1] / factor


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
