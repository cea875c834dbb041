"""Images in, detections in original pixels out: the one path of scoring, prediction and export checks."""

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from detector.geometry import letterbox
from detector.model import precision
from detector.model.decode import CanvasDetections, pack, unpack
from detector.model.model_file import TrainedModel
from detector.types import Detections, Placement, Prediction, Priors


def detect(
    trained: TrainedModel,
    images: UInt8[Tensor, "b 3 h w"],
    placements: Sequence[Placement],
    *,
    dtype: torch.dtype,
) -> list[Detections]:
    """Find objects in canvases as the loader makes them.

    Boxes come back in each image's own pixels, clipped to it; scores down to `decode.min_score` are kept. The
    convolutions run in `dtype`, see `precision.resolve`.
    """
    found = unpack(find_packed(trained, images, placements, dtype=dtype).cpu())
    return [
        _to_original(one, placement, trained.label_map.names) for one, placement in zip(found, placements, strict=True)
    ]


def find_packed(
    trained: TrainedModel,
    images: UInt8[Tensor, "b 3 h w"],
    placements: Sequence[Placement],
    *,
    dtype: torch.dtype,
) -> Float[Tensor, "b m columns"]:
    """All of `detect` that happens on the device, as `decode.pack` writes it."""
    model, config = trained.model, trained.config
    device = next(model.parameters()).device
    canvas_hw = (images.shape[2], images.shape[3])
    with torch.inference_mode(mode=False):
        priors = model.priors(canvas_hw)  # the model keeps them, and training could not use inference tensors
    with (
        _evaluating(model),
        torch.inference_mode(),
        precision.autocast(device, dtype),
    ):
        images = images.to(device, non_blocking=True)
        prediction = model(images)
        if config.decode.mirror:
            prediction, priors = _with_mirrored(prediction, model(images.flip(-1)), priors, canvas_hw[1])
    extents = [letterbox.resized_hw(placement, canvas_hw) for placement in placements]
    with torch.inference_mode():
        return pack(
            prediction,
            priors,
            torch.tensor(extents, dtype=torch.float32).to(device, non_blocking=True),
            classification=config.loss.classification,
            delta_std=config.model.delta_std,
            config=config.decode,
        )


def _with_mirrored(
    plain: Prediction, mirrored: Prediction, priors: Priors, canvas_width: int
) -> tuple[Prediction, Priors]:
    """Both views as one prediction over twice the priors.

    A box mirrored back is that of a mirrored prior with the opposite offset along x.
    """
    x0, y0, x1, y1 = priors.boxes.unbind(-1)
    both = [plain, dataclasses.replace(mirrored, deltas=mirrored.deltas * mirrored.deltas.new_tensor([-1, 1, 1, 1]))]
    factors = [one.score_factor for one in both if one.score_factor is not None]
    return (
        Prediction(
            logits=torch.cat([one.logits for one in both], dim=1),
            deltas=torch.cat([one.deltas for one in both], dim=1),
            score_factor=torch.cat(factors, dim=1) if factors else None,
        ),
        Priors(
            boxes=torch.cat((priors.boxes, torch.stack((canvas_width - x1, y0, canvas_width - x0, y1), dim=-1))),
            level_sizes=priors.level_sizes * 2,
        ),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    # Module by module: in a stage of training some parts learn and others are held still.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _to_original(found: CanvasDetections, placement: Placement, names: tuple[str, ...]) -> Detections:
    boxes = letterbox.boxes_to_original(found.boxes, placement)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # a box in the padding has nothing left
    labels = found.labels[inside]
    rows = cast("list[int]", labels.tolist())
    return Detections(
        boxes=boxes[inside],
        scores=found.scores[inside],
        labels=labels,
        names=tuple(names[row] for row in rows),
        class_scores=found.class_scores[inside],
    )
