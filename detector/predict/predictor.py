"""The Python API: a trained model that finds objects in images."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.data import decode
from detector.errors import DataError
from detector.model import device as devices
from detector.model import model_file
from detector.predict.finder import Finder, assemble
from detector.types import Detections, LabelMap

ImageLike = str | Path | NDArray[np.uint8]


class Detector:
    """Finds objects in images.

    An image is a file, or an array uint8 [h, w, 3] in RGB order; OpenCV's arrays are BGR, so give `array[..., ::-1]`.
    Boxes come back in pixels of the image as it is seen, that is after its EXIF orientation was applied.

    Example:
        model = Detector.load("blood-cells.safetensors")
        found = model.predict("smear.jpg")
    """

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    @classmethod
    def load(
        cls,
        path: str | Path,
        *more: str | Path,
        device: str = "auto",
        decode: Mapping[str, object] | None = None,
        compile_for: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Read a model file, or several whose findings are fused; their classes are matched by name.

        Args:
            path: The model file.
            more: Others.
            device: `auto`, `cpu` or `cuda`.
            decode: Settings of `DecodeConfig` in place of those in the files, such as `{"mirror": False}`.
            compile_for: Images at once for which torch.compile is tried and kept if it is faster. The first time on a
                machine this takes a minute or more for each model.
            say: Told what came of it.

        Raises:
            CheckpointError: a file is missing, is something else, or was damaged.
            ConfigError: the device is unknown or not there, a setting is unknown, or two classes of several models
                share a category id.
        """
        target = devices.resolve(device)
        paths = [Path(path), *(Path(other) for other in more)]
        models = [model_file.load(one, target, decode=decode) for one in paths]
        return cls(assemble(models, [str(one) for one in paths], compile_for=compile_for, say=say))

    @property
    def names(self) -> tuple[str, ...]:
        """Class names; the position is the label."""
        return self._finder.label_map.names

    @property
    def label_map(self) -> LabelMap:
        return self._finder.label_map

    @property
    def one_of_classes(self) -> bool:
        """Whether `class_scores` are probabilities that sum to 1, as those of a localizer."""
        return self._finder.one_of_classes

    @property
    def default_score(self) -> float:
        """What counts as found where no class has a threshold of its own. A localizer always has one answer."""
        return 0.0 if self.one_of_classes else 0.3

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """What counts as found, class by class, as `detector eval --write-thresholds` chose it; None without."""
        return self._finder.thresholds

    def predict(self, image: ImageLike, score: float | None = None) -> Detections:
        """Find the objects of one image, best first.

        Args:
            image: A file or an RGB array.
            score: Least score of what is returned; None takes `thresholds`, else `default_score`.

        Raises:
            DataError: the file cannot be read as an image, or the array is no uint8 [h, w, 3].
        """
        return next(self.predict_many([image], score=score, batch_size=1))

    def predict_many(
        self, images: Iterable[ImageLike], score: float | None = None, batch_size: int = 8
    ) -> Iterator[Detections]:
        """Find the objects of many images, one result an image, in order.

        Lazy: an image is read when its batch is due, and results are not kept, so a source may be endless. An image
        that cannot be read ends it with the `DataError` of `predict`.
        """
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"score must be between 0 and 1, got {score}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        return self._stream(iter(images), self._least(score), batch_size)

    def _least(self, score: float | None) -> Tensor:
        """Least score by label."""
        if score is None and self.thresholds is not None:
            return torch.tensor(self.thresholds, dtype=torch.float64)
        return torch.full((len(self.names),), self.default_score if score is None else score, dtype=torch.float64)

    def _stream(self, images: Iterator[ImageLike], least: Tensor, batch_size: int) -> Iterator[Detections]:
        while batch := list(islice(images, batch_size)):
            for found in self._finder.find([read_pixels(image) for image in batch]):
                yield _at_least(found, least)


def read_pixels(image: Any) -> NDArray[np.uint8]:
    """Read a file, or check an array."""
    if isinstance(image, str | Path):
        return decode.read_image(Path(image))
    if not isinstance(image, np.ndarray):
        raise DataError(f"an image must be a path or an array uint8 [h, w, 3] in RGB order, got {type(image).__name__}")
    array = cast("NDArray[Any]", image)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(f"an image array must be [h, w, 3] in RGB order and not empty, got shape {array.shape}")
    if array.dtype != np.uint8:
        raise DataError(f"an image array must be uint8 with values 0 to 255, got {array.dtype}; scale and convert it")
    return array


def _at_least(found: Detections, least: Tensor) -> Detections:
    kept = found.scores.double() >= least.to(found.labels.device)[found.labels]
    flags = cast("list[bool]", kept.tolist())
    return Detections(
        boxes=found.boxes[kept],
        scores=found.scores[kept],
        labels=found.labels[kept],
        names=tuple(name for name, is_kept in zip(found.names, flags, strict=True) if is_kept),
        class_scores=None if found.class_scores is None else found.class_scores[kept],
    )
