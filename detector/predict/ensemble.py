"""Several trained models as one: their classes united by name, what they found in an image fused.

Works on detections in pixels of the original image, so that each model may have a canvas of its own.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.geometry import suppress
from detector.types import Detections, LabelMap

IOU_THRESHOLD: Final = 0.6
VOTING: Final = 0.025
"""Both as recipe `small` reads off the views of one model."""


def merge_label_maps(maps: Sequence[LabelMap], sources: Sequence[str]) -> LabelMap:
    """Unite classes by name, in order of first appearance; a class keeps the category id of the first map that has it.

    Args:
        maps: One of each model.
        sources: The model file of each map, for the message.

    Raises:
        ConfigError: two classes would share a category id.
    """
    ids: dict[str, int] = {}
    owners: dict[int, tuple[str, str]] = {}
    for label_map, source in zip(maps, sources, strict=True):
        for name, category_id in zip(label_map.names, label_map.category_ids, strict=True):
            if name in ids:
                continue
            if category_id in owners:
                other, other_source = owners[category_id]
                raise ConfigError(
                    f"{source}: category id {category_id} is class {name!r}, but in {other_source} it is {other!r}; "
                    "leave one of the two models out, or train one again on a data set that gives "
                    f"{name!r} another id (or, if both are one class, the same name)"
                )
            ids[name] = category_id
            owners[category_id] = (name, source)
    return LabelMap(names=tuple(ids), category_ids=tuple(ids.values()))


def combine(
    found: Sequence[Detections],
    maps: Sequence[LabelMap],
    merged: LabelMap,
    *,
    max_detections: int,
) -> Detections:
    """Fuse what each model found in one image, best first; labels and names are those of the merged map.

    As the views of one model are: boxes are suppressed together, each that is kept is drawn towards those around it,
    and its score is the mean over the models. Weighted box fusion (Solovyev et al. 2021) lost AP on crowded cells
    (docs/multi-head.md).

    Args:
        found: One of each model, boxes in pixels of the original image.
        maps: One of each model, in the order of `found`. A model that does not know a class has no say about it.
        merged: From `merge_label_maps`.
        max_detections: How many at most are returned.
    """
    boxes = torch.cat([one.boxes for one in found])
    scores = torch.cat([one.scores for one in found])
    labels = torch.cat([_relabelled(one.labels, own, merged) for one, own in zip(found, maps, strict=True)])
    models = torch.cat([torch.full_like(one.labels, number) for number, one in enumerate(found)])
    num_knowing = torch.tensor([sum(name in own.names for own in maps) for name in merged.names]).to(scores)

    kept = suppress.keep_best(boxes, scores, labels, IOU_THRESHOLD)
    kept_boxes, kept_scores, kept_labels = boxes[kept][None], scores[kept][None], labels[kept][None]
    whole = boxes[None], scores[None], labels[None]
    agreed = suppress.agree(
        kept_boxes,
        kept_scores,
        kept_labels,
        *whole,
        models[None],
        num_views=len(maps),
        iou_threshold=IOU_THRESHOLD,
    )
    agreed = (agreed * (len(maps) / num_knowing[kept_labels])).clamp(max=1)[0]
    drawn = suppress.vote(kept_boxes, kept_labels, *whole, width=VOTING)[0]

    best = agreed.argsort(descending=True, stable=True)[:max_detections]
    fused = kept_labels[0, best]
    return Detections(
        boxes=drawn[best],
        scores=agreed[best],
        labels=fused,
        names=tuple(merged.names[int(label)] for label in fused),
    )


def _relabelled(labels: Tensor, own: LabelMap, merged: LabelMap) -> Tensor:
    table = torch.tensor([merged.names.index(name) for name in own.names], dtype=labels.dtype, device=labels.device)
    return table[labels]
