"""Scores as a table for people and as plain values for programs."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, Final

from detector.evaluate.coco import ClassScore, Interval, Scores
from detector.printable import visible

NAMES: Final = (
    "AP, IoU 0.50 to 0.95",
    "AP, IoU 0.50",
    "AP, IoU 0.75",
    "AP, small objects",
    "AP, medium objects",
    "AP, large objects",
    "recall, 1 detection",
    "recall, 10 detections",
    "recall, 100 detections",
    "recall, small objects",
    "recall, medium objects",
    "recall, large objects",
)


def table(scores: Scores, intervals: Sequence[Interval] = ()) -> str:
    """Aligned lines: the twelve COCO numbers, each class, what was counted, notes. A dash is "not defined".

    Args:
        scores: What to show.
        intervals: Of the first of the twelve, as many as there are.
    """
    lines = [f"{name:<24}{_number(value)}" for name, value in zip(NAMES, scores.twelve(), strict=True)]
    for k, interval in enumerate(intervals):
        lines[k] += f"   {interval.low:5.3f} to {interval.high:5.3f}"
    if intervals:
        lines.insert(0, f"{'':<24}{'score':>5}   95 % interval over images")
    names = [visible(entry.name) for entry in scores.per_class]
    width = max([len("class"), *map(len, names)])
    lines += ["", f"{'class':<{width}}  {'AP':>5}  {'AP50':>5}  {'objects':>7}"]
    lines += [
        f"{name:<{width}}  {_number(entry.ap)}  {_number(entry.ap50)}  {entry.num_objects:>7}"
        for name, entry in zip(names, scores.per_class, strict=True)
    ]
    lines += ["", f"{scores.num_detections} detections on {scores.num_images} images"]
    if scores.num_tied:
        lines.append(f"{scores.num_tied} of them share their score with another of the class; their order decides")
    lines += [f"note: {visible(note)}" for note in scores.notes]
    return "\n".join(lines)


def as_json(scores: Scores, intervals: Sequence[Interval] = ()) -> dict[str, Any]:
    """Return what `json.dumps` takes; the numbers unrounded, -1 for "not defined" as pycocotools has it."""
    named = zip(("ap", "ap50", "ap75"), intervals, strict=False)
    return {**asdict(scores), "intervals": {name: [one.low, one.high] for name, one in named}}


def of_json(tree: dict[str, Any]) -> Scores:
    """The scores that `as_json` was given."""
    values = {field.name: tree[field.name] for field in fields(Scores)}
    values["per_class"] = tuple(ClassScore(**entry) for entry in tree["per_class"])
    values["notes"] = tuple(tree["notes"])
    return Scores(**values)


def _number(value: float) -> str:
    return f"{value:5.3f}" if value >= 0 else f"{'-':>5}"
