"""Training batches from JPEG files on one core: this package, uncached and cached, beside Pillow and torchvision v2.

All decode, shrink to the canvas, flip, jitter colours, pad and stack. torchvision's batch is float32 and normalised;
ours is uint8, which the device normalises. Without the random changes both are the same picture, which is checked
first.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from detector.benchmark import contest, pictures
from detector.benchmark.contest import Measured, Report
from detector.config import AugmentConfig, DataConfig, RunConfig
from detector.data import coco, layout, loader
from detector.data.augment import Augmenter
from detector.data.columns import Columns
from detector.data.dataset import Item, Key, TrainingSet
from detector.errors import DetectorError
from detector.geometry import letterbox
from detector.types import Batch, BatchShape, Preprocess

WAYS = ("detector", "cached", "torchvision")
BATCH_SIZE = 16
_NUM_FILES = 32
_WARM_UP = 1  # batches
# Filters and decoders differ by a level or two on what is fine; a shift of half a pixel would be twice as much.
LARGEST_PIXEL_DIFFERENCE = 3.0  # mean, in levels of 255
LARGEST_BOX_DIFFERENCE = 1.0  # a reduced JPEG may lose a part of a pixel at its border
_PLAIN = AugmentConfig(
    horizontal_flip=0.0, scale=(1.0, 1.0), aspect=(1.0, 1.0), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0
)  # fmt: skip
_COLOURS = AugmentConfig(scale=(1.0, 1.0), aspect=(1.0, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    folder: Path | None = None
    """A data set; None generates pictures."""
    size_hw: tuple[int, int] = (960, 1280)
    """Of the generated pictures."""
    image_size: int = 640
    num_batches: int = 6
    rounds: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Between ours and torchvision's, without random changes."""

    pixels: float  # mean, in levels
    boxes: float  # largest, in pixels of the canvas


def measure(settings: Settings, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on.

    Raises:
        DetectorError: the two do not give the same pictures and boxes.
    """
    with tempfile.TemporaryDirectory() as made:
        if settings.folder is None:
            say("writing the pictures")
            files = pictures.write(Path(made, "data"), num_images=_NUM_FILES, size_hw=settings.size_hw)
        else:
            found = layout.find(settings.folder, "train")
            files = (found.annotations, found.images)
        apart = difference(coco.read(*files), settings.image_size)
        say(f"without random changes: pixels differ by {apart.pixels:.2f} levels, boxes by up to {apart.boxes:.3f}")
        if apart.pixels > LARGEST_PIXEL_DIFFERENCE or apart.boxes > LARGEST_BOX_DIFFERENCE:
            raise DetectorError(
                f"ours and torchvision's pictures differ by {apart.pixels:.2f} levels, boxes by {apart.boxes:.2f} "
                "pixels: their times cannot be compared"
            )
        counts = [str(settings.image_size), str(settings.num_batches)]
        return contest.compare(
            f"{settings.num_batches} batches of {BATCH_SIZE} from files, on one core; counts and shapes to be equal",
            dataclasses.asdict(settings) | {"folder": str(settings.folder or "generated"), **dataclasses.asdict(apart)},
            lambda way: contest.run_child(__spec__.name, [way, *map(str, files), *counts, str(Path(made, "cache"))]),
            ways=WAYS,
            reference="torchvision",
            rounds=settings.rounds,
            say=say,
        )


def run(way: str, columns: Columns, image_size: int, num_batches: int, cache: Path) -> Measured:
    """One way, in this process."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if way == "torchvision":
        batches = _by_torchvision(columns, image_size)
    else:
        batches = _images(_by_detector(columns, image_size, cache if way == "cached" else None))
    untimed = -(-len(columns) // BATCH_SIZE) if way == "cached" else _WARM_UP
    for _ in range(untimed):
        next(batches)
    return contest.measured(lambda: [next(batches).shape for _ in range(num_batches)], _describe)


def _describe(shapes: list[torch.Size]) -> dict[str, Any]:
    return {
        "images": sum(shape[0] for shape in shapes),
        "shapes": " ".join(sorted({str(tuple(shape)) for shape in shapes})),
    }


def difference(columns: Columns, image_size: int, *, num_images: int = 8) -> Difference:
    """Ours and torchvision's of the first few images, without random changes."""
    canvas_hw = letterbox.choose_canvas(columns.sizes_hw, image_size)
    preprocess = Preprocess(canvas_hw=canvas_hw)
    ours = TrainingSet(columns, preprocess, _PLAIN, 0)
    theirs = _Torchvision(columns, canvas_hw, preprocess, _PLAIN)
    augmenter = Augmenter(_PLAIN, canvas_hw, preprocess.padding)  # says where on the canvas ours will lie
    pixels: list[float] = []
    boxes: list[float] = [0.0]
    for row in range(min(num_images, len(columns))):
        item = ours[Key(0, row, canvas_hw)]
        if not isinstance(item, Item) or item.sample is None or item.index != row:
            raise DetectorError(f"{columns.path(row)}: cannot be read, or its size is not as annotated")
        height, width = columns.sizes_hw[row].tolist()
        image, its_boxes = theirs.make(row, augmenter.draw((height, width), (0, 0, row)).window.top_left)
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
        levels = ((image * std + mean) * 255).round().permute(1, 2, 0).numpy()
        pixels.append(float(np.abs(levels - item.sample.image).mean()))
        if len(its_boxes) == len(item.sample.boxes):
            boxes += np.abs(its_boxes.numpy() - item.sample.boxes).flatten().tolist()
        else:
            boxes.append(float("inf"))
    return Difference(pixels=float(np.mean(pixels)), boxes=max(boxes))


def _by_detector(columns: Columns, image_size: int, cache: Path | None) -> Iterator[Batch]:
    data = DataConfig(
        image_size=image_size,
        batch_size=BATCH_SIZE,
        workers=0,
        cache="none" if cache is None else "disk",
        cache_folder=None if cache is None else str(cache),
    )
    canvas_hw = letterbox.choose_canvas(columns.sizes_hw, image_size)
    shapes = repeat(BatchShape(size=BATCH_SIZE, window_hw=canvas_hw))
    config = RunConfig(data=data, augment=_COLOURS)
    return loader.training_loader(columns, Preprocess(canvas_hw=canvas_hw), config, shapes)


def _images(batches: Iterator[Batch]) -> Iterator[Tensor]:
    for batch in batches:
        yield batch.images


def _by_torchvision(columns: Columns, image_size: int) -> Iterator[Tensor]:
    canvas_hw = letterbox.choose_canvas(columns.sizes_hw, image_size)
    make = _Torchvision(columns, canvas_hw, Preprocess(canvas_hw=canvas_hw), _COLOURS).make
    for keys in loader.stream(0, len(columns), repeat(BatchShape(size=BATCH_SIZE, window_hw=canvas_hw)), 0):
        yield torch.stack([make(row)[0] for _, row, *_ in keys])


class _Torchvision:
    """As its own detection references do it: Pillow decodes, everything else is on float32 tensors."""

    def __init__(
        self, columns: Columns, canvas_hw: tuple[int, int], preprocess: Preprocess, config: AugmentConfig
    ) -> None:
        self._columns = columns
        self._canvas_hw = canvas_hw
        self._padding = preprocess.padding / 255
        self._to_float = v2.ToDtype(torch.float32, scale=True)
        self._normalize = v2.Normalize(list(preprocess.mean), list(preprocess.std))
        self._change = v2.Compose(
            [
                v2.RandomHorizontalFlip(config.horizontal_flip),
                v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue),
            ]
        )

    def make(self, row: int, top_left: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
        """Image [3, H, W] and boxes [N, 4] on the canvas."""
        columns = self._columns
        with Image.open(columns.path(row)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        image: Any = tv_tensors.Image(v2.functional.pil_to_tensor(picture))
        height, width = picture.height, picture.width
        with_size: Any = tv_tensors.BoundingBoxes  # typed as a plain tensor
        corners = torch.from_numpy(columns.boxes[columns.objects(row)])
        boxes = with_size(corners, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(height, width))
        size_hw = letterbox.resized_hw(letterbox.fit((height, width), self._canvas_hw), self._canvas_hw)
        image, boxes = v2.Resize(size_hw, antialias=True)(self._to_float(image), boxes)
        image, boxes = self._change(image, boxes)
        (top, left), (bottom, right) = top_left, (a - b for a, b in zip(self._canvas_hw, size_hw, strict=True))
        padding = [left, top, right - left, bottom - top]
        image, boxes = v2.Pad(padding, fill={tv_tensors.Image: self._padding})(image, boxes)
        return self._normalize(image).as_subclass(Tensor), boxes.as_subclass(Tensor)


if __name__ == "__main__":
    contest.print_measured(
        run(
            sys.argv[1],
            coco.read(Path(sys.argv[2]), Path(sys.argv[3])),
            int(sys.argv[4]),
            int(sys.argv[5]),
            Path(sys.argv[6]),
        )
    )
