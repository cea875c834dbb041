"""Several trained models as one: their classes united by name, what they found in an image fused.

Works on detections in pixels of the original image, so that each model may have a canvas of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from detector.config import DecodeConfig
from detector.errors import ConfigError
from detector.geometry import suppress
from detector.types import Detections, LabelMap


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """What several models find in an image, as one result.

    As the views of one model are: boxes are suppressed together, each that is kept is drawn towards those around it,
    and its score is the mean over the models. Weighted box fusion (Solovyev et al. 2021) lost AP on crowded cells
    (docs/multi-head.md).
    """

    maps: tuple[LabelMap, ...]
    """One of each model. A model that does not know a class has no say about it."""
    merged: LabelMap
    """From `merge_label_maps`."""
    nms_iou: float
    voting: float
    max_detections: int

    @classmethod
    def of(cls, maps: Sequence[LabelMap], merged: LabelMap, decodes: Sequence[DecodeConfig]) -> Self:
        """With the settings of the models; where they differ the larger value, which one of them needs."""
        return cls(
            maps=tuple(maps),
            merged=merged,
            nms_iou=max(one.nms_iou for one in decodes),
            voting=max(one.voting for one in decodes),
            max_detections=max(one.max_detections for one in decodes),
        )

    def combine(self, found: Sequence[Detections]) -> Detections:
        """Best first; labels and names are those of the merged map.

        Args:
            found: One of each model, boxes in pixels of the original image.
        """
        boxes = torch.cat([one.boxes for one in found])
        scores = torch.cat([one.scores for one in found])
        labels = [_relabelled(one.labels, own, self.merged) for one, own in zip(found, self.maps, strict=True)]
        models = torch.cat([torch.full_like(one.labels, number) for number, one in enumerate(found)])
        whole = boxes[None], scores[None], torch.cat(labels)[None]

        kept = suppress.keep_best(boxes, scores, whole[2][0], self.nms_iou)
        kept_boxes, kept_scores, kept_labels = (values[:, kept] for values in whole)
        agreed = suppress.agree(
            kept_boxes,
            kept_scores,
            kept_labels,
            *whole,
            models[None],
            num_views=len(self.maps),
            iou_threshold=self.nms_iou,
        )
        num_knowing = torch.tensor([sum(name in own.names for own in self.maps) for name in self.merged.names])
        agreed = (agreed * (len(self.maps) / num_knowing.to(scores)[kept_labels])).clamp(max=1)[0]
        drawn = suppress.vote(kept_boxes, kept_labels, *whole, width=self.voting) if self.voting else kept_boxes

        best = agreed.argsort(descending=True, stable=True)[: self.max_detections]
        fused = kept_labels[0, best]
        return Detections(
            boxes=drawn[0, best],
            scores=agreed[best],
            labels=fused,
            names=tuple(self.merged.names[int(label)] for label in fused),
        )


def _relabelled(labels: Tensor, own: LabelMap, merged: LabelMap) -> Tensor:
    table = torch.tensor([merged.names.index(name) for name in own.names], dtype=labels.dtype, device=labels.device)
    return table[labels]
