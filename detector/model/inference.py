"""Images in, detections in original pixels out: the one path of scoring, prediction and export checks."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from detector.geometry import letterbox
from detector.model import precision, views
from detector.model.decode import CanvasDetections, pack, unpack
from detector.model.model_file import TrainedModel
from detector.types import Detections, Placement


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
    with (
        _evaluating(model),
        torch.inference_mode(),
        precision.autocast(device, dtype),
    ):
        seen = views.look(model, images.to(device, non_blocking=True), views.of(config.decode))
    extents = [letterbox.resized_hw(placement, canvas_hw) for placement in placements]
    with torch.inference_mode():
        return pack(
            seen.prediction,
            seen.priors,
            torch.tensor(extents, dtype=torch.float32).to(device, non_blocking=True),
            classification=config.loss.classification,
            delta_std=config.model.delta_std,
            config=config.decode,
            num_views=seen.num_views,
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
