"""Rules for what the network sees, where it looks, and what it tells: sizes, levels, flips, decoding."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from detector import recipes
from detector.fitting import levels
from detector.fitting.base import MANY_IMAGES, Base
from detector.fitting.choice import Choice
from detector.fitting.facts import Asked, Facts

_LARGER = (1.0, 1.3, 1.6)
"""Image sizes that are tried, relative to the usual one."""
_SMALLEST_SIZE = 128
_NO_FEWER = 0.05
"""Of the objects: a larger size that lifts no more of them above the tiny ones is not worth its time."""
_CUTOUT = 0.5
"""Side of a cut-out, relative to that of the canvas."""
_SIDE_WORDS = {"left", "right"}
_COCO_MAX_DETECTIONS = 100
_HARDLY = 0.005
"""IoU that would be told as 0.00."""


def trunk(facts: Facts, base: Base) -> Choice:
    if base.is_large:
        reason = f"with full heads: a GPU, and {MANY_IMAGES:,} images with objects or more"
    elif facts.machine.kind == "cpu":
        reason = "with light heads: a CPU trains it in minutes"
    else:
        reason = f"with light heads: fewer than {MANY_IMAGES:,} images with objects"
    return Choice(setting="model.backbone", value=base.config.model.backbone, reason=reason)


def image_size(facts: Facts) -> Choice:
    """The smallest of a few sizes at which few objects are tiny, and no larger than the pictures are."""
    whole = max(_SMALLEST_SIZE, 32 * math.ceil(facts.longer_side / 32))
    usual = usual_size(facts)
    sizes = [min(32 * round(usual * factor / 32), whole) for factor in _LARGER]
    tiny = [levels.share_below(facts.sides * size, facts.weights, levels.TINY) for size in sizes]
    allowed = max(levels.TINY_SHARE, min(tiny) + _NO_FEWER)
    size, share = next(pair for pair in zip(sizes, tiny, strict=True) if pair[1] <= allowed)
    height, width = (round(side * size) for side in facts.canvas_shape)
    shape = "a square takes any shape" if width == height else "the pictures' shape"
    small = f"objects under {levels.TINY:.0f} px: {share:.0%}"
    if share > levels.TINY_SHARE and size < whole:
        why = f"{small}; cut pictures into {_tile(facts, size):,} px tiles"
    elif size == whole < usual:
        why = "nine in ten are no larger"
    else:
        why = f"{small} (mean of classes)" + f", at {sizes[0]} {tiny[0]:.0%}" * (size > sizes[0])
    reason = f"about {width}x{height}, {shape}; {why}"
    return Choice(setting="data.image_size", value=size, reason=reason)


def _tile(facts: Facts, size: int) -> int:
    """Longest side of parts of the pictures, in their pixels, in which few objects would be tiny."""
    smallest = levels.quantile(facts.sides, facts.weights, levels.TINY_SHARE) * facts.longer_side
    return max(32, 32 * int(smallest * size / levels.TINY / 32))


def usual_size(facts: Facts) -> int:
    """By the device alone: on a GPU few images, too, are learned from at the size of recipe `standard`."""
    recipe = recipes.small() if facts.machine.kind == "cpu" else recipes.standard()
    return recipe.data.image_size


def pyramid(facts: Facts, asked: Asked, base: Base, image_size: int) -> tuple[Choice, Choice, Choice]:
    """First, last and scale of the priors, each fitted around those of the others that the user has decided."""
    sides = facts.sides * image_size
    zoom = asked.zoom or base.config.augment.scale
    usual = base.config.model.priors.scales[0]  # not fitted: docs/automatic.md has what that gave
    scale = asked.prior_scale or usual

    def fitted(**free: None) -> levels.Levels:
        return levels.fit(sides, facts.weights, image_size, zoom, scale, replace(asked.levels, **free))

    first, last, used = fitted(first=None).first, fitted(last=None).last, fitted()
    low, middle, high = (levels.quantile(sides, facts.weights, share) for share in (levels.RARE, 0.5, 1 - levels.RARE))
    smallest, largest = levels.reach(sides, facts.weights, image_size, zoom)
    out, into = f" ({smallest:.0f} when zoomed out)", f" ({largest:.0f} when zoomed in)"
    why_first = f"stride {2**first}: objects from {low:.0f} px up{out if zoom[0] < 1 else ''}"
    limit = levels.too_small(sides, facts.weights)
    if first == levels.FINEST and limit is not None:
        share = levels.share_below(sides, facts.weights, limit)
        why_first = f"stride 4: objects under {limit:.0f} px: {share:.0%} (mean of classes)"
    is_least = scale * 2 ** (last - 0.5) > largest  # coarser than any object has need of
    reach = f"objects up to {high:.0f} px{into if zoom[1] > 1 else ''}"
    why_last = f"stride {2**last}: {'no fewer levels' if is_least else reach}"
    priors = ", ".join(f"{usual * 2**level:.0f}" for level in range(used.first, used.last + 1))
    return (
        Choice(setting="model.pyramid.first_level", value=first, reason=why_first),
        Choice(setting="model.pyramid.last_level", value=last, reason=why_last),
        Choice(
            setting="model.priors.scales",
            value=[usual],
            reason=f"priors of {priors} px; the middle object has {middle:.{0 if middle >= 10 else 1}f} px",
        ),
    )


def crops(facts: Facts, base: Base) -> Choice:
    share = base.config.data.crops.share
    largest = levels.quantile(facts.extents, facts.weights, 0.95)
    if facts.machine.kind == "cuda":
        share, reason = 0.0, "whole images: a GPU needs no short cut"
    elif largest > _CUTOUT:
        share, reason = 0.0, f"whole images: objects reach {largest:.0%} of the canvas and would be cut"
    else:
        reason = f"of the run on quicker cut-outs; objects reach {largest:.0%} of the canvas"
    return Choice(setting="data.crops.share", value=share, reason=reason)


def flips(facts: Facts) -> Sequence[Choice]:
    sided = [name for name in facts.seen if _SIDE_WORDS & _words(name)]
    return (
        Choice(
            setting="augment.horizontal_flip",
            value=0.0 if sided else 0.5,
            reason=f"class {sided[0]!r} tells left from right" if sided else "left and right are taken for alike",
        ),
        Choice(
            setting="augment.vertical_flip",
            value=0.0,
            reason="up may matter; seen from above or through a microscope, 0.5 is better",
        ),
    )


def _words(name: str) -> set[str]:
    """In small letters; `LeftShoe` has two."""
    return set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def decoding(facts: Facts, base: Base) -> Sequence[Choice]:
    decode = base.config.decode
    most = min(1000, max(_COCO_MAX_DETECTIONS, 50 * math.ceil(2 * facts.most_objects / 50)))
    iou = min(0.75, max(decode.nms_iou, 0.05 * round((facts.overlap + 0.1) / 0.05)))
    fullest = f"an image has up to {facts.most_objects} object{'s' * (facts.most_objects != 1)}"
    is_apart = facts.overlap < _HARDLY
    covers = f"one object in fifty covers another of its class by IoU {facts.overlap:.2f} or more"
    return (
        Choice(
            setting="decode.max_detections",
            value=most,
            reason=fullest,
        ),
        Choice(
            setting="decode.candidates",
            value=max(decode.candidates, 10 * most),
            reason="before suppression",
        ),
        Choice(
            setting="decode.nms_iou",
            value=round(iou, 2),
            reason="objects of one class hardly ever overlap" if is_apart else covers,
        ),
    )
