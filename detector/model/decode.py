"""From raw predictions to scored boxes on the canvas."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detector.config import Classification, DecodeConfig
from detector.errors import DetectorError
from detector.geometry import codec, suppress
from detector.types import Prediction, Priors


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasDetections:
    """Detections of one image before they are carried back to it, best first."""

    boxes: Tensor  # float32 [K, 4] xyxy canvas pixels
    scores: Tensor  # float32 [K]
    labels: Tensor  # int64 [K]
    class_scores: Tensor  # float32 [K, C], of the prior behind each box


def class_scores(logits: Float[Tensor, "b a outputs"], classification: Classification) -> Float[Tensor, "b a c"]:
    """Probability of each class; the background output of softmax is left out."""
    logits = logits.float()
    match classification:
        case "softmax":
            return logits.softmax(dim=-1)[..., :-1]
        case "categorical":
            return logits.softmax(dim=-1)
        case "sigmoid" | "focal" | "quality":
            return logits.sigmoid()


def decode(
    prediction: Prediction,
    priors: Priors,
    extents_hw: Float[Tensor, "b 2"],
    *,
    classification: Classification,
    delta_std: tuple[float, float, float, float],
    config: DecodeConfig,
) -> list[CanvasDetections]:
    """Best candidates of each image, suppressed within their class.

    Args:
        prediction: Of both heads.
        priors: Of the canvas.
        extents_hw: Height and width that each image takes on the canvas. Boxes are clipped to it before suppression:
            what two boxes share outside the image says nothing.
        classification: Kind of loss the logits were trained with.
        delta_std: Unit of the offsets.
        config: Thresholds and counts.

    Raises:
        DetectorError: the network's output is not finite, as after a diverged training.
    """
    scores = class_scores(prediction.logits, classification)
    if prediction.score_factor is not None:
        scores = scores * prediction.score_factor[..., None]
    num_images, _, num_classes = scores.shape
    chosen_scores, chosen = _candidates(scores, priors.level_sizes, config)
    rows = chosen // num_classes
    labels = chosen % num_classes
    deltas = prediction.deltas.float().gather(1, rows[..., None].expand(-1, -1, 4))
    boxes = codec.decode(deltas, priors.boxes[rows], delta_std)
    _require_finite(prediction, scores, boxes)
    boxes = torch.minimum(boxes.clamp(min=0), extents_hw.flip(-1).repeat(1, 2)[:, None])

    images = torch.arange(num_images, device=boxes.device)[:, None].expand_as(labels)
    kept = chosen_scores >= config.min_score
    flat = _Flat(
        boxes=boxes[kept], scores=chosen_scores[kept], labels=labels[kept], images=images[kept], rows=rows[kept]
    )
    keep = suppress.keep_best(flat.boxes, flat.scores, flat.images * num_classes + flat.labels, config.nms_iou)
    return [
        _of_image(image, keep[flat.images[keep] == image][: config.max_detections], flat, scores)
        for image in range(num_images)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flat:
    """Candidates of all images, one after another."""

    boxes: Tensor  # float32 [N, 4]
    scores: Tensor  # float32 [N]
    labels: Tensor  # int64 [N]
    images: Tensor  # int64 [N]
    rows: Tensor  # int64 [N], the prior behind each


def _of_image(image: int, keep: Int[Tensor, " k"], flat: _Flat, scores: Float[Tensor, "b a c"]) -> CanvasDetections:
    return CanvasDetections(
        boxes=flat.boxes[keep],
        scores=flat.scores[keep],
        labels=flat.labels[keep],
        class_scores=scores[image, flat.rows[keep]],
    )


def _candidates(
    scores: Float[Tensor, "b a c"], level_sizes: tuple[int, ...], config: DecodeConfig
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Best (prior, class) pairs of each image, as an index into the flattened [A * C]."""
    num_classes = scores.shape[2]
    best_scores: list[Tensor] = []
    best: list[Tensor] = []
    start = 0
    for size in level_sizes if config.candidates_per_level else (scores.shape[1],):
        flat = scores[:, start : start + size].flatten(1)
        top = flat.topk(min(config.candidates, flat.shape[1]), dim=1)
        best_scores.append(top.values)
        best.append(top.indices + start * num_classes)
        start += size
    return torch.cat(best_scores, dim=1), torch.cat(best, dim=1)


def _require_finite(prediction: Prediction, scores: Tensor, boxes: Tensor) -> None:
    # Infinite logits are finite scores; a head's score factor is in the scores alone.
    finite = prediction.logits.isfinite().all() & scores.isfinite().all() & boxes.isfinite().all()
    if not finite:
        # pycocotools would give a NaN box AP 1.0; nothing of this kind may leave the model.
        raise DetectorError("the network's output is not finite: its weights are damaged or its training diverged")
