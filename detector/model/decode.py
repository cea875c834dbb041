"""From raw predictions to scored boxes on the canvas."""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

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


def pack(
    prediction: Prediction,
    priors: Priors,
    extents_hw: Float[Tensor, "b 2"],
    *,
    classification: Classification,
    delta_std: tuple[float, float, float, float],
    config: DecodeConfig,
    num_views: int = 1,
) -> Float[Tensor, "b m columns"]:
    """Best candidates of each image, suppressed within their class, padded to `max_detections` at most.

    All in one tensor, so that it leaves the device in one copy. The columns are: whether the output is finite, whether
    there is a detection, its score, its label (float32 holds it exactly), the four of its box, and the score of each
    class.

    Args:
        prediction: Of both heads.
        priors: Of the canvas.
        extents_hw: Height and width that each image takes on the canvas. Boxes are clipped to it before suppression:
            what two boxes share outside the image says nothing.
        classification: Kind of loss the logits were trained with.
        delta_std: Unit of the offsets.
        config: Thresholds and counts.
        num_views: How many views of each image the priors are of, with equally many levels, view after view.
    """
    found = _candidates(prediction, priors.level_sizes, classification, config, num_views)
    rows = found.rows.gather(1, found.places)
    boxes = codec.decode(_take(prediction.deltas, rows).float(), priors.boxes[rows], delta_std)
    is_finite = _is_finite(prediction) & boxes.isfinite().all()
    boxes = torch.minimum(boxes.clamp(min=0), extents_hw.flip(-1).repeat(1, 2)[:, None])

    everything = _Everything(boxes=boxes, scores=found.scores, labels=found.labels)
    kept = _suppressed(everything, found.class_scores.shape[2], config)
    if num_views > 1:
        kept = _agreed(kept, everything, _views(rows, priors.level_sizes, num_views), num_views, config)
    drawn = kept.boxes
    if config.voting:
        drawn = suppress.vote(kept.boxes, kept.labels, *everything, width=config.voting)
    facts = (is_finite.expand_as(kept.is_there), kept.is_there, kept.scores, kept.labels)
    behind = _take(found.class_scores, found.places.flatten()[kept.rows])
    return torch.cat((torch.stack([fact.float() for fact in facts], -1), drawn, behind), -1)


class _Everything(NamedTuple):
    """All candidates of each image."""

    boxes: Tensor  # float32 [B, K, 4]
    scores: Tensor  # float32 [B, K]
    labels: Tensor  # int64 [B, K]


class _Kept(NamedTuple):
    """What suppression kept of each image, best first; what is not there comes last."""

    rows: Tensor  # int64 [B, M], among the candidates of all images
    is_there: Tensor  # bool [B, M]
    boxes: Tensor  # float32 [B, M, 4]
    scores: Tensor  # float32 [B, M]
    labels: Tensor  # int64 [B, M]


def _suppressed(everything: _Everything, num_classes: int, config: DecodeConfig) -> _Kept:
    """The best of each image that no better one of their class overlaps too much."""
    (num_images, per_image), boxes = everything.scores.shape, everything.boxes.flatten(0, 1)
    scores, labels = everything.scores.flatten(), everything.labels.flatten()
    # Here the host waits, once for all images: suppression is much cheaper for those that can be reported.
    kept = (scores >= config.min_score).nonzero()[:, 0]
    groups = kept // per_image * num_classes + labels[kept]
    kept = kept[suppress.keep_best(boxes[kept], scores[kept], groups, config.nms_iou)]
    rows, is_there = _first(kept, kept // per_image, num_images, min(config.max_detections, per_image))
    return _Kept(rows=rows, is_there=is_there, boxes=boxes[rows], scores=scores[rows], labels=labels[rows])


def _first(
    kept: Int[Tensor, " n"], images: Int[Tensor, " n"], num_images: int, limit: int
) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """The first `limit` of `kept` for each image, and which of them there are; the others are 0."""
    is_of = images[:, None] == torch.arange(num_images, device=kept.device)
    rank = (is_of.cumsum(0) * is_of).sum(1) - 1
    place = torch.where(rank < limit, images * limit + rank, num_images * limit)
    table = kept.new_zeros(num_images * limit + 1).scatter(0, place, kept)[:-1].view(num_images, limit)
    return table, torch.arange(limit, device=kept.device) < is_of.sum(0)[:, None]


def _agreed(
    kept: _Kept, everything: _Everything, views: Int[Tensor, "b k"], num_views: int, config: DecodeConfig
) -> _Kept:
    """With the scores that all views together give, in their order; what they leave under `min_score` is gone."""
    scores = suppress.agree(
        kept.boxes,
        kept.scores,
        kept.labels,
        *everything,
        views,
        num_views=num_views,
        iou_threshold=config.nms_iou,
    )
    is_there = kept.is_there & (scores >= config.min_score)
    order = torch.where(is_there, scores, -1).argsort(dim=1, descending=True, stable=True)
    return _Kept(
        rows=kept.rows.gather(1, order),
        is_there=is_there.gather(1, order),
        boxes=_take(kept.boxes, order),
        scores=scores.gather(1, order),
        labels=kept.labels.gather(1, order),
    )


def unpack(packed: Float[Tensor, "b m columns"]) -> list[CanvasDetections]:
    """From what `pack` made, on the CPU.

    Raises:
        NotFiniteError: the network's output is not finite, as after a diverged training.
    """
    if not packed[..., 0].all():
        # pycocotools would give a NaN box AP 1.0; nothing of this kind may leave the model.
        raise NotFiniteError("the network's output is not finite: its weights are damaged or its training diverged")
    return [
        CanvasDetections(
            boxes=rows[:, 4:8].contiguous(),
            scores=rows[:, 2].contiguous(),
            labels=rows[:, 3].long(),
            class_scores=rows[:, 8:].contiguous(),
        )
        for rows in (image[image[:, 1] > 0] for image in packed)
    ]


class NotFiniteError(DetectorError):
    """A network says infinity or NaN: its weights are damaged or its training diverged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """The best pairs of a prior and a class, of each image."""

    rows: Tensor  # int64 [B, R], priors
    class_scores: Tensor  # float32 [B, R, C], theirs
    places: Tensor  # int64 [B, K], the prior of each pair, as a place among these
    labels: Tensor  # int64 [B, K]
    scores: Tensor  # float32 [B, K]


def _candidates(
    prediction: Prediction,
    level_sizes: tuple[int, ...],
    classification: Classification,
    config: DecodeConfig,
    num_views: int,
) -> _Candidates:
    """The `config.candidates` pairs with the highest scores, of each level or of all, for each view that there is.

    First as many priors, by their best class: the pairs lie among them. Sorting the pairs of all priors would take a
    tenth of a ResNet-50's time on a CPU.
    """
    best = _best_scores(prediction.logits, classification)
    factor = prediction.score_factor
    if factor is not None:
        best = best * factor
    sizes = level_sizes if config.candidates_per_level else (best.shape[1],)
    count = config.candidates * (1 if config.candidates_per_level else num_views)
    starts = list(accumulate(sizes, initial=0))
    tops = [best[:, a:b].topk(min(count, b - a), dim=1).indices + a for a, b in pairwise(starts)]
    rows = torch.cat(tops, dim=1)
    scores = class_scores(_take(prediction.logits, rows), classification)
    if factor is not None:
        scores = scores * factor.gather(1, rows)[..., None]

    num_classes = scores.shape[2]
    ends = list(accumulate((top.shape[1] for top in tops), initial=0))
    pairs = [scores[:, a:b].flatten(1).topk(min(count, (b - a) * num_classes), dim=1) for a, b in pairwise(ends)]
    chosen = torch.cat([pair.indices + a * num_classes for pair, a in zip(pairs, ends[:-1], strict=True)], dim=1)
    return _Candidates(
        rows=rows,
        class_scores=scores,
        places=chosen // num_classes,
        labels=chosen % num_classes,
        scores=torch.cat([pair.values for pair in pairs], dim=1),
    )


def _views(rows: Int[Tensor, "b k"], level_sizes: tuple[int, ...], num_views: int) -> Int[Tensor, "b k"]:
    """Which view each prior is of."""
    levels = len(level_sizes) // num_views
    ends = list(accumulate(sum(level_sizes[start : start + levels]) for start in range(0, len(level_sizes), levels)))
    return torch.bucketize(rows, torch.tensor(ends, device=rows.device), right=True)


def _best_scores(logits: Float[Tensor, "b a outputs"], classification: Classification) -> Float[Tensor, "b a"]:
    """Score of each prior's best class."""
    match classification:
        case "softmax" | "categorical":
            return class_scores(logits, classification).amax(dim=-1)
        case "sigmoid" | "focal" | "quality":
            return logits.float().amax(dim=-1).sigmoid()


def _take(values: Float[Tensor, "b a c"], rows: Int[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def _is_finite(prediction: Prediction) -> Bool[Tensor, ""]:
    # What is not finite stays so in a sum, which takes a tenth of the time of a look at every number. Infinite logits
    # are finite scores; a head's score factor is in the scores alone.
    is_finite = prediction.logits.sum(dim=-1, dtype=torch.float32).isfinite().all()
    if prediction.score_factor is not None:
        is_finite = is_finite & prediction.score_factor.isfinite().all()
    return is_finite
