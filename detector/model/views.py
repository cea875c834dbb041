"""An image seen several times: at several sizes, and mirrored. What all views say becomes one prediction."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from detector.config import DecodeConfig
from detector.model.detector import DetectionModel
from detector.types import Prediction, Priors


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a canvas is shown to the network."""

    zoom: float = 1.0
    """Sides relative to the canvas."""
    is_mirrored: bool = False
    """Left and right changed."""

    def size_hw(self, canvas_hw: tuple[int, int]) -> tuple[int, int]:
        height, width = canvas_hw
        return max(1, round(height * self.zoom)), max(1, round(width * self.zoom))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the network said of each prior of each view, view after view."""

    prediction: Prediction
    priors: Priors  # in pixels of the plain canvas
    num_views: int


def of(config: DecodeConfig) -> tuple[View, ...]:
    """The views that the settings ask for."""
    sides = (False, True) if config.mirror else (False,)
    return tuple(View(zoom=zoom, is_mirrored=is_mirrored) for zoom in config.zooms for is_mirrored in sides)


def look(model: DetectionModel, images: UInt8[Tensor, "b 3 h w"], views: Sequence[View]) -> Seen:
    """Run the network once for each view; boxes come back to the plain canvas with their priors.

    Args:
        model: In evaluation mode.
        images: Canvases as the loader makes them, on the model's device.
        views: At least one.
    """
    canvas_hw = (images.shape[2], images.shape[3])
    priors = [_on_canvas(_priors(model, view.size_hw(canvas_hw)), view, canvas_hw) for view in views]
    predictions = [_said(model, images, view) for view in views]
    factors = [one.score_factor for one in predictions if one.score_factor is not None]
    return Seen(
        prediction=Prediction(
            logits=_joined([one.logits for one in predictions], dim=1),
            deltas=_joined([one.deltas for one in predictions], dim=1),
            score_factor=_joined(factors, dim=1) if factors else None,
        ),
        priors=Priors(
            boxes=_joined([one.boxes for one in priors], dim=0),
            level_sizes=tuple(size for one in priors for size in one.level_sizes),
        ),
        num_views=len(views),
    )


def _said(model: DetectionModel, images: Tensor, view: View) -> Prediction:
    size_hw = view.size_hw((images.shape[2], images.shape[3]))
    shown = images if size_hw == images.shape[2:] else _resized(images, size_hw)
    if not view.is_mirrored:
        return model(shown)
    said = model(shown.flip(-1))
    # The offset along x points the other way.
    return dataclasses.replace(said, deltas=said.deltas * said.deltas.new_tensor([-1, 1, 1, 1]))


def _resized(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    resized = F.interpolate(images.float(), size=size_hw, mode="bilinear", antialias=True)
    return resized.round().to(torch.uint8)


def _priors(model: DetectionModel, size_hw: tuple[int, int]) -> Priors:
    # The model keeps what it makes the first time, and training could not use inference tensors.
    with torch.inference_mode(mode=False):
        return model.priors(size_hw)


def _on_canvas(priors: Priors, view: View, canvas_hw: tuple[int, int]) -> Priors:
    """The priors of a view as they lie on the plain canvas. Offsets are in units of the prior, so they stay."""
    if view == View():
        return priors
    boxes, (height, width) = priors.boxes, view.size_hw(canvas_hw)
    scale = boxes.new_tensor([canvas_hw[1] / width, canvas_hw[0] / height]).repeat(2)
    x0, y0, x1, y1 = (boxes * scale).unbind(-1)
    if view.is_mirrored:
        x0, x1 = canvas_hw[1] - x1, canvas_hw[1] - x0
    return dataclasses.replace(priors, boxes=torch.stack((x0, y0, x1, y1), dim=-1))


def _joined(parts: Sequence[Tensor], *, dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)
