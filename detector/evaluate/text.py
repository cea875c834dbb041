"""Scores as a table for people and as plain values for programs."""

from dataclasses import asdict
from typing import Any, Final

from detector.evaluate.coco import ClassScore, Scores

_NAMES: Final = (
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


def table(scores: Scores) -> str:
    """Aligned lines: the twelve COCO numbers, each class, what was counted, notes. A dash is "not defined"."""
    lines = [f"{name:<24}{_number(value)}" for name, value in zip(_NAMES, scores.twelve(), strict=True)]
    names = [_one_line(entry.name) for entry in scores.per_class]
    width = max([len("class"), *map(len, names)])
    lines += ["", f"{'class':<{width}}  {'AP':>5}  {'AP50':>5}  {'objects':>7}"]
    lines += [
        f"{name:<{width}}  {_number(entry.ap)}  {_number(entry.ap50)}  {entry.num_objects:>7}"
        for name, entry in zip(names, scores.per_class, strict=True)
    ]
    lines += ["", f"{scores.num_detections} detections on {scores.num_images} images"]
    lines += [f"note: {note}" for note in scores.notes]
    return "\n".join(lines)


def as_json(scores: Scores) -> dict[str, Any]:
    """Return what `json.dumps` takes; the numbers unrounded, -1 for "not defined" as pycocotools has it."""
    return asdict(scores)


def of_json(tree: dict[str, Any]) -> Scores:
    """What `as_json` was given."""
    values = dict(tree)
    values["per_class"] = tuple(ClassScore(**entry) for entry in tree["per_class"])
    values["notes"] = tuple(tree["notes"])
    return Scores(**values)


def _number(value: float) -> str:
    return f"{value:5.3f}" if value >= 0 else f"{'-':>5}"


def _one_line(name: str) -> str:
    """Escape control characters: a class name from a file must not steer the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
