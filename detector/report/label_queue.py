"""The doubtful labels as a COCO file, for a labelling tool to open."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from detector.analysis.analyse import Analysis
from detector.analysis.label_errors import Suspect
from detector.analysis.matching import NONE
from detector.data import coco

DESCRIPTION: Final = "labels to look at, most doubtful first; written by detector report"
MOST: Final = 500


def as_coco(analysis: Analysis, suspects: Sequence[Suspect]) -> dict[str, Any]:
    """Annotations in the order of the queue, with the doubt in keys of its own.

    A label keeps its record; a missing one gets the proposed box and a new id. Nothing is corrected.
    """
    tree = coco.read_json(analysis.truth.source)
    records: list[dict[str, Any]] = tree["annotations"]
    known = [record.get("id") for record in records]
    next_id = max((number for number in known if isinstance(number, int)), default=0) + 1
    annotations: list[dict[str, Any]] = []
    for rank, one in enumerate(suspects[:MOST], start=1):
        label = None if one.object_row == NONE else records[int(analysis.truth.records[one.object_row])]
        annotations.append({**_record(analysis, one, label, next_id + rank), "rank": rank})
    wanted = {annotation["image_id"] for annotation in annotations}
    images = [image for image in tree["images"] if image.get("id") in wanted]
    return {
        "info": {"description": DESCRIPTION, "source": str(analysis.truth.source)},
        "images": images,
        "annotations": annotations,
        "categories": tree["categories"],
    }


def text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _record(analysis: Analysis, one: Suspect, label: Mapping[str, Any] | None, new_id: int) -> dict[str, Any]:
    category_id = int(analysis.truth.category_ids[one.class_row])
    proposal = None
    if one.box_xywh is not None:
        proposal = {"category_id": category_id, "bbox": list(one.box_xywh), "score": one.score}
    doubt = {"doubt": one.doubt, "suspicion": one.suspicion, "proposal": proposal}
    if label is not None:
        return {**label, **doubt}
    assert one.box_xywh is not None, "a missing label is proposed by a detection"
    return {
        "id": new_id,
        "image_id": int(analysis.truth.image_ids[one.image_row]),
        "category_id": category_id,
        "bbox": list(one.box_xywh),
        "area": one.box_xywh[2] * one.box_xywh[3],
        "iscrowd": 0,
        **doubt,
    }
