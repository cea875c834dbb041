"""Images in, detections in original pixels out: the one path of scoring, prediction and export checks."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import UInt8
from torch import Tensor

from detector.geometry import letterbox
from detector.model import precision
from detector.model.decode import CanvasDetections, decode
from detector.model.model_file import TrainedModel
from detector.types import Detections, Placement


def detect(
    trained: TrainedModel, images: UInt8[Tensor, "b 3 h w"], placements: Sequence[Placement]
) -> list[Detections]:
    """Find objects in canvases as the loader makes them.

    Boxes come back in each image's own pixels, clipped to it; scores down to `decode.min_score` are kept.
    """
    model, config = trained.model, trained.config
    device = next(model.parameters()).device
    dtype = precision.resolve(config.precision, device)
    was_training = model.training
    model.eval()
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32),
    ):
        prediction = model(images.to(device, non_blocking=True))
    model.train(was_training)
    canvas_hw = (images.shape[2], images.shape[3])
    extents = [letterbox.resized_hw(placement, canvas_hw) for placement in placements]
    with torch.inference_mode():
        found = decode(
            prediction,
            model.priors(canvas_hw),
            torch.tensor(extents, dtype=torch.float32, device=device),
            classification=config.loss.classification,
            delta_std=config.model.delta_std,
            config=config.decode,
        )
    return [
        _to_original(one, placement, trained.label_map.names) for one, placement in zip(found, placements, strict=True)
    ]


def _to_original(found: CanvasDetections, placement: Placement, names: tuple[str, ...]) -> Detections:
    boxes = letterbox.boxes_to_original(found.boxes.cpu(), placement)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # a box in the padding has nothing left
    labels = found.labels.cpu()[inside]
    rows = cast("list[int]", labels.tolist())
    return Detections(
        boxes=boxes[inside],
        scores=found.scores.cpu()[inside],
        labels=labels,
        names=tuple(names[row] for row in rows),
    )
