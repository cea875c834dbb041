"""Several trained models as one: their classes united by name, what they found in an image fused.

Works on detections in pixels of the original image, so that each model may have a canvas of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.geometry import fuse
from detector.types import Detections, LabelMap

IOU_THRESHOLD = 0.55  # as in Solovyev et al. 2021, section 4.1


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
    iou_threshold: float = IOU_THRESHOLD,
) -> Detections:
    """Fuse what each model found in one image, best first; labels and names are those of the merged map.

    A box loses score for each model that did not find it, but not for a model that does not know its class.

    Args:
        found: One of each model, boxes in pixels of the original image.
        maps: One of each model, in the order of `found`.
        merged: From `merge_label_maps`.
        iou_threshold: See `geometry.fuse.fuse`.
        max_detections: How many at most are returned.
    """
    boxes = torch.cat([one.boxes for one in found])
    scores = torch.cat([one.scores for one in found])
    labels = torch.cat([_relabelled(one.labels, own, merged) for one, own in zip(found, maps, strict=True)])

    num_knowing = torch.tensor([sum(name in own.names for own in maps) for name in merged.names], device=labels.device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for num_models in range(1, len(maps) + 1):
        chosen = num_knowing[labels] == num_models
        parts.append(
            fuse.fuse(boxes[chosen], scores[chosen], labels[chosen], num_models=num_models, iou_threshold=iou_threshold)
        )

    fused_boxes, fused_scores, fused_labels = (torch.cat(column) for column in zip(*parts, strict=True))
    best = fused_scores.argsort(descending=True, stable=True)[:max_detections]
    return Detections(
        boxes=fused_boxes[best],
        scores=fused_scores[best],
        labels=fused_labels[best],
        names=tuple(merged.names[int(label)] for label in fused_labels[best]),
    )


def _relabelled(labels: Tensor, own: LabelMap, merged: LabelMap) -> Tensor:
    table = torch.tensor([merged.names.index(name) for name in own.names], dtype=labels.dtype, device=labels.device)
    return table[labels]
