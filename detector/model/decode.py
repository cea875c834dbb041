"""From raw predictions to scored boxes on the canvas."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detector.config import Classification, DecodeConfig
from detector.errors import DetectorError
from detector.geometry import codec, suppress
from detector.types import Prediction, Priors


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasDetections:
    """Detections of one image before they are carried back to it, best first; on the CPU."""

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
    packed = pack(prediction, priors, extents_hw, classification=classification, delta_std=delta_std, config=config)
    return _unpack(packed.cpu())


def pack(
    prediction: Prediction,
    priors: Priors,
    extents_hw: Float[Tensor, "b 2"],
    *,
    classification: Classification,
    delta_std: tuple[float, float, float, float],
    config: DecodeConfig,
) -> Float[Tensor, "b m columns"]:
    """What `decode` answers, padded to `max_detections` and in one tensor: so it leaves the device in one copy.

    The columns are: whether the output is finite, whether there is a detection, its score, its label (float32 holds it
    exactly), the four of its box, and the score of each class.
    """
    scores = class_scores(prediction.logits, classification)
    if prediction.score_factor is not None:
        scores = scores * prediction.score_factor[..., None]
    num_images, _, num_classes = scores.shape
    chosen_scores, chosen = _candidates(scores, priors.level_sizes, config)
    rows = chosen // num_classes
    deltas = prediction.deltas.float().gather(1, rows[..., None].expand(-1, -1, 4))
    boxes = codec.decode(deltas, priors.boxes[rows], delta_std)
    # Infinite logits are finite scores; a head's score factor is in the scores alone.
    is_finite = prediction.logits.isfinite().all() & scores.isfinite().all() & boxes.isfinite().all()
    boxes = torch.minimum(boxes.clamp(min=0), extents_hw.flip(-1).repeat(1, 2)[:, None])

    boxes, chosen, chosen_scores = boxes.flatten(0, 1), chosen.flatten(), chosen_scores.flatten()

    # Here the host waits, once for all images: suppression is much cheaper for those that can be reported.
    kept = (chosen_scores >= config.min_score).nonzero()[:, 0]
    per_image = len(chosen) // max(1, num_images)
    groups = kept // per_image * num_classes + chosen[kept] % num_classes
    kept = kept[suppress.keep_best(boxes[kept], chosen_scores[kept], groups, config.nms_iou)]

    best, is_there = _places(kept, kept // per_image, num_images, config.max_detections)
    behind = (chosen[best] // num_classes)[..., None].expand(-1, -1, num_classes)
    facts = (is_finite.expand_as(is_there), is_there, chosen_scores[best], chosen[best] % num_classes)
    return torch.cat((torch.stack([fact.float() for fact in facts], -1), boxes[best], scores.gather(1, behind)), -1)


def _places(
    kept: Int[Tensor, " n"], images: Int[Tensor, " n"], num_images: int, limit: int
) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """The first `limit` of `kept` for each image, and which of them there are; the others are 0."""
    is_of = images[:, None] == torch.arange(num_images, device=kept.device)
    rank = (is_of.cumsum(0) * is_of).sum(1) - 1
    place = torch.where(rank < limit, images * limit + rank, num_images * limit)
    table = kept.new_zeros(num_images * limit + 1).scatter(0, place, kept)[:-1].view(num_images, limit)
    return table, torch.arange(limit, device=kept.device) < is_of.sum(0)[:, None]


def _unpack(packed: Float[Tensor, "b m columns"]) -> list[CanvasDetections]:
    """From what `pack` made, on the CPU."""
    if not packed[..., 0].all():
        # pycocotools would give a NaN box AP 1.0; nothing of this kind may leave the model.
        raise DetectorError("the network's output is not finite: its weights are damaged or its training diverged")
    return [
        CanvasDetections(
            boxes=rows[:, 4:8].contiguous(),
            scores=rows[:, 2].contiguous(),
            labels=rows[:, 3].long(),
            class_scores=rows[:, 8:].contiguous(),
        )
        for rows in (image[image[:, 1] > 0] for image in packed)
    ]


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
