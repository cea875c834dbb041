"""What finds objects in pixels: one model, or several fused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.config import DecodeConfig
from detector.data import letterbox
from detector.model import compiled, inference, precision
from detector.model.model_file import TrainedModel
from detector.predict import ensemble
from detector.predict.ensemble import Fusion
from detector.types import Detections, LabelMap, Placement, Preprocess

Pixels = NDArray[np.uint8]
Detect = Callable[[Tensor, Sequence[Placement]], Sequence[Detections]]


class Finder(Protocol):
    @property
    def label_map(self) -> LabelMap: ...

    @property
    def one_of_classes(self) -> bool:
        """Whether `class_scores` are probabilities that sum to 1, as those of a localizer."""
        ...

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of each class, where the model file has them."""
        ...

    def find(self, images: Sequence[Pixels]) -> Sequence[Detections]:
        """What is found in a few images, uint8 [h, w, 3] RGB, at any score; in pixels of each image."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OneModel:
    """A model with its own canvas."""

    detect: Detect
    label_map: LabelMap
    preprocess: Preprocess
    one_of_classes: bool = False
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    thresholds: tuple[float, ...] | None = None
    batch_size: int | None = None
    """Images that go through the network at once, where it was compiled for that; None is any number."""

    @classmethod
    def of(cls, trained: TrainedModel, *, dtype: torch.dtype | None = None, batch_size: int | None = None) -> Self:
        config = trained.config
        # Other heads may scale the scores.
        plain = all(head.kind in ("classification", "box") for head in config.model.heads)
        return cls(
            detect=partial(inference.detect, trained, dtype=dtype or _dtype(trained)),
            label_map=trained.label_map,
            preprocess=trained.preprocess,
            one_of_classes=plain and config.loss.classification == "categorical",
            decode=config.decode,
            thresholds=trained.thresholds,
            batch_size=batch_size,
        )

    def find(self, images: Sequence[Pixels]) -> Sequence[Detections]:
        contract = self.preprocess
        placed = [letterbox.place(image, contract.canvas_hw, contract.padding) for image in images]
        canvases = torch.from_numpy(np.stack([canvas for canvas, _ in placed])).permute(0, 3, 1, 2)
        placements = [placement for _, placement in placed]
        size = self.batch_size
        if size is None:
            return self.detect(canvases, placements)
        return [
            found
            for start in range(0, len(placed), size)
            for found in self._detect_filled(canvases[start : start + size], placements[start : start + size], size)
        ]

    def _detect_filled(self, canvases: Tensor, placements: Sequence[Placement], size: int) -> Sequence[Detections]:
        """Repeat the last image until the batch is full: another size would be compiled anew."""
        missing = size - len(placements)
        if missing:
            canvases = torch.cat((canvases, canvases[-1:].expand(missing, -1, -1, -1)))
        return self.detect(canvases, [*placements, *[placements[-1]] * missing])[: len(placements)]


class FusedModels:
    """Several models, each on its own canvas, as one."""

    one_of_classes = False
    thresholds = None  # fusion makes scores that no single model gives

    def __init__(self, models: Sequence[OneModel], sources: Sequence[str]) -> None:
        self._models = tuple(models)
        maps = [model.label_map for model in models]
        self.label_map = ensemble.merge_label_maps(maps, sources)
        self._fusion = Fusion.of(maps, self.label_map, [model.decode for model in models])

    def find(self, images: Sequence[Pixels]) -> Sequence[Detections]:
        return [
            self._fusion.combine(found) for found in zip(*(model.find(images) for model in self._models), strict=True)
        ]


def assemble(
    models: Sequence[TrainedModel],
    sources: Sequence[str],
    *,
    dtypes: Sequence[torch.dtype] | None = None,
    compile_for: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Finder:
    """What finds objects with these models, whose files are `sources`.

    Args:
        models: On their devices.
        sources: For errors.
        dtypes: Of the convolutions of each; None for what its settings say.
        compile_for: Images at once for which torch.compile is tried and kept if it is faster.
        say: Told what came of it.

    Raises:
        ConfigError: two classes of several models share a category id.
    """
    of_each = dtypes or [_dtype(trained) for trained in models]
    ones = [_one_model(trained, dtype, compile_for, say) for trained, dtype in zip(models, of_each, strict=True)]
    return ones[0] if len(ones) == 1 else FusedModels(ones, sources)


def _one_model(
    trained: TrainedModel, dtype: torch.dtype, compile_for: int | None, say: Callable[[str], None]
) -> OneModel:
    if compile_for is None:
        return OneModel.of(trained, dtype=dtype)
    device = next(trained.model.parameters()).device
    images = torch.zeros(compile_for, 3, *trained.preprocess.canvas_hw, dtype=torch.uint8, device=device)
    trial = compiled.for_inference(trained.model, images, dtype=dtype)
    say(trial.sentence())
    return OneModel.of(trained, dtype=dtype, batch_size=compile_for if trial.pays else None)


def _dtype(trained: TrainedModel) -> torch.dtype:
    return precision.resolve(trained.config.precision, next(trained.model.parameters()).device)
