"""The automatic recipe: `small` or `standard`, fitted to a data set and a device.

A pure function of facts. Every rule gives its reason in the words that the user reads.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from detector import recipes
from detector.config import RunConfig
from detector.fitting import choice, levels
from detector.fitting.choice import Choice, Fit
from detector.fitting.facts import Asked, Facts
from detector.train import scaling, schedule

MANY_IMAGES = 2000
"""From here on a GPU trains a ResNet-50."""
FEW_IMAGES = 1000
"""Up to here, norms of given weights are better than those that batches give."""
FEW_A_BATCH = 8
_LARGER = (1.0, 1.3, 1.6)
"""Image sizes that are tried, relative to the usual one."""
_SMALLEST_SIZE = 128
_GPU_SHARE = 0.7
_GIB = 2**30
_GIB_PER_PIXEL = {"resnet18": 0.25 / 640**2, "resnet50": 0.7 / 640**2}  # of an image in training, bfloat16
_FITS_A_CUTOUT = 0.4
"""Of the canvas's longer side: an object that lies whole in most cut-outs of half that side."""
_SIDE_WORDS = {"left", "right"}
_COCO_MAX_DETECTIONS = 100
_MOST_TIMES_LR = 2.0
_USUAL_STEPS = (2000, 12_000)
_LR = 1e-3
"""Of recipe `small`, by its batch on a CPU and by 8 images on a GPU. Three times as much, its own, gains 0.009 on blood
cells in 2,448 steps (docs/accuracy.md) and loses 0.06 of 0.37 on data of twenty classes (docs/automatic.md)."""
_CLASSES_PER_WEIGHT, _MOST_WEIGHT = 5, 3.0
"""The loss of the classes weighs 1 for each five of them, from 1 to 3. With 16 classes a weight of 1 leaves
it a quarter of the gradient, and classes are hardly told apart at the end of a short run (docs/automatic.md)."""
_FEW_ON_A_GPU = 8
"""Images of a batch."""
_FINER_TAKES = 1.5
"""Times as long a step with level 2 as one without; measured on a CPU (docs/accuracy.md)."""
_HARDLY = 0.005
"""IoU that would be told as 0.00."""


def fit(facts: Facts, asked: Asked, changes: Mapping[str, object]) -> Fit:
    """Choose; what the user has decided stays, and the rest follows it.

    Args:
        facts: Of the data and the machine.
        asked: What the user has decided, as far as other settings depend on it.
        changes: Everything the user has set, by dotted name.
    """
    is_large = facts.machine.kind == "cuda" and facts.num_images >= MANY_IMAGES
    base = recipes.standard() if is_large else recipes.small()
    size = _image_size(facts, asked)
    image_size = _decided(asked.image_size, size)
    batch = _batch_size(facts, base, image_size)
    batch_size = _decided(asked.batch_size, batch)
    first, last, scales = _levels(facts, asked, base, image_size)
    is_finer = _decided(asked.levels.first, first) == levels.FINEST
    choices = (
        _trunk(facts, base),
        size,
        first,
        last,
        scales,
        batch,
        *_rates(facts, asked, base, batch_size),
        *_losses(facts, base),
        *_norms(facts, asked, batch_size),
        _crops(facts, base),
        *_flips(facts),
        *_length(facts, asked, base, batch_size, image_size, is_finer=is_finer),
        *_decoding(facts, base),
    )
    name = "standard" if is_large else "small"
    about = (
        f"recipe {name}, fitted to {facts.num_images:,} images with {facts.num_objects:,} objects of "
        f"{len(facts.classes)} class{'es' * (len(facts.classes) != 1)}, and to {_place(facts)}"
    )
    settled = choice.settle(base, choices, about, changes).config
    return choice.settle(base, (*choices, _warm_up(facts, base, settled)), about, changes)


def _place(facts: Facts) -> str:
    machine = facts.machine
    many = f" in {machine.processes} processes" if machine.processes > 1 else ""
    return f"a GPU{many}" if machine.kind == "cuda" else f"a CPU of {machine.cores} cores{many}"


def _trunk(facts: Facts, base: RunConfig) -> Choice:
    if facts.machine.kind == "cpu":
        reason = "with light heads: a CPU trains it in minutes"
    elif facts.num_images < MANY_IMAGES:
        reason = f"with light heads: fewer than {MANY_IMAGES:,} images"
    else:
        reason = f"with full heads: a GPU, and {MANY_IMAGES:,} images or more"
    return Choice(setting="model.backbone", value=base.model.backbone, reason=reason)


def _image_size(facts: Facts, asked: Asked) -> Choice:
    """The smallest of a few sizes at which few objects are tiny, and no larger than the pictures are."""
    whole = max(_SMALLEST_SIZE, 32 * math.ceil(facts.longer_side / 32))
    usual = _usual_size(facts)
    sizes = [min(32 * round(usual * factor / 32), whole) for factor in _LARGER]
    tiny = [levels.share_below(facts.sides * size, facts.weights, levels.TINY) for size in sizes]
    size, share = next(
        (pair for pair in zip(sizes, tiny, strict=True) if pair[1] <= levels.TINY_SHARE), (sizes[-1], tiny[-1])
    )
    height, width = (round(side * (asked.image_size or size)) for side in facts.canvas_shape)
    canvas = f"about {width}x{height}, the pictures' shape"
    small = f"objects under {levels.TINY:.0f} px: {share:.0%} (mean of classes)"
    if size == whole < usual:
        reason = f"{canvas}; nine in ten are no larger"
    elif size > sizes[0]:
        before = f"objects under {levels.TINY:.0f} px: {share:.0%} (mean of classes), at {sizes[0]} {tiny[0]:.0%}"
        reason = f"{canvas}; {before}"
    else:
        reason = f"{canvas}; {small}"
    return Choice(setting="data.image_size", value=size, reason=reason)


def _usual_size(facts: Facts) -> int:
    recipe = recipes.small() if facts.machine.kind == "cpu" else recipes.standard()
    return recipe.data.image_size


def _levels(facts: Facts, asked: Asked, base: RunConfig, image_size: int) -> tuple[Choice, Choice, Choice]:
    """First, last and scale of the priors, each fitted around those of the others that the user has decided."""
    sides = facts.sides * image_size
    zoom = asked.zoom or base.augment.scale
    usual = base.model.priors.scales[0]  # not fitted: docs/automatic.md has what that gave
    scale = asked.prior_scale or usual

    def fitted(**free: None) -> levels.Levels:
        return levels.fit(sides, facts.weights, image_size, zoom, scale, replace(asked.levels, **free))

    first, last, used = fitted(first=None).first, fitted(last=None).last, fitted()
    low, middle, high = (levels.quantile(sides, facts.weights, share) for share in (0.02, 0.5, 0.98))
    out, into = f" ({low * zoom[0]:.0f} when zoomed out)", f" ({min(high * zoom[1], image_size):.0f} when zoomed in)"
    why_first = f"stride {2**first}: objects from {low:.0f} px up{out if zoom[0] < 1 else ''}"
    limit = levels.too_small(sides, facts.weights)
    if first == levels.FINEST and limit is not None:
        share = levels.share_below(sides, facts.weights, limit)
        why_first = f"stride 4: objects under {limit:.0f} px: {share:.0%} (mean of classes)"
    largest = min(high * max(zoom[1], 1.0), image_size)
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
            reason=f"priors of {priors} px; the middle object has {middle:.0f} px",
        ),
    )


def _batch_size(facts: Facts, base: RunConfig, image_size: int) -> Choice:
    machine = facts.machine
    if machine.kind == "cpu":
        size, reason = base.data.batch_size, "on a CPU more steps are worth more than larger ones"
    else:
        size, reason = (
            (16, "usual") if facts.num_images >= MANY_IMAGES else (_FEW_ON_A_GPU, "few images: more and smaller steps")
        )
        if machine.memory_bytes is not None:
            pixels = image_size**2 * facts.canvas_shape[0] * facts.canvas_shape[1]
            each = _GIB_PER_PIXEL[base.model.backbone] * pixels * _GIB
            fitting = machine.processes * max(1, int(_GPU_SHARE * machine.memory_bytes / each))
            if fitting < size:
                size = 2 ** int(math.log2(fitting))
                reason = f"what fits into {machine.memory_bytes / _GIB:.0f} GiB"
    each_takes = math.ceil(size / machine.processes)
    if machine.processes > 1:
        size, reason = each_takes * machine.processes, f"{each_takes} for each process; {reason}"
    return Choice(setting="data.batch_size", value=size, reason=reason)


def _rates(facts: Facts, asked: Asked, base: RunConfig, batch_size: int) -> Sequence[Choice]:
    optim = base.optim
    if base == recipes.small():
        lr, reason = _LR, "a third of that of recipe small: safer on unknown data"
    elif asked.has_weights:
        lr, reason = recipes.coco_1x().optim.lr, "from given weights: that of recipe coco-1x"
    else:
        lr, reason = optim.lr, "from random weights"
    is_gpu_with_few = facts.machine.kind != "cpu" and facts.num_images < MANY_IMAGES
    usual = _FEW_ON_A_GPU if is_gpu_with_few else base.data.batch_size
    if batch_size != usual:
        factor = min(_MOST_TIMES_LR, scaling.lr_factor(asked.optimizer, batch_size, usual))
        lr, reason = float(f"{lr * factor:.2g}"), f"{reason}; times {factor:.2g} for the batch"
    return (
        Choice(setting="optim.lr", value=lr, reason=reason),
        Choice(
            setting="optim.ema_width",
            value=optim.ema_width,
            reason=f"weights are averaged over the last {optim.ema_width:.0%} of the run so far",
        ),
    )


def _losses(facts: Facts, base: RunConfig) -> Sequence[Choice]:
    """None where the recipe is one for many classes."""
    if base != recipes.small():
        return ()
    many = facts.num_seen
    factor = min(_MOST_WEIGHT, max(1.0, round(2 * many / _CLASSES_PER_WEIGHT) / 2))
    reason = "as usual" if factor == 1 else "the more of them, the longer it takes to tell them apart"
    return (
        Choice(
            setting="loss.classification_weight",
            value=factor * base.loss.classification_weight,
            reason=f"{many} class{'es' * (many != 1)} with objects: {reason}",
        ),
    )


def _warm_up(facts: Facts, base: RunConfig, settled: RunConfig) -> Choice:
    """By the length of the run, on which the user and the other choices have decided."""
    steps = schedule.plan(settled, num_images=facts.num_images).steps
    usual = base.optim.warmup_steps
    value = usual if steps is None else min(usual, max(1, steps // 20))
    reason = "steps in which the rate rises"
    return Choice(
        setting="optim.warmup_steps",
        value=value,
        reason=reason if value == usual else f"a twentieth of {steps} steps, in which the rate rises",
    )


def _norms(facts: Facts, asked: Asked, batch_size: int) -> Sequence[Choice]:
    if not asked.has_weights:
        return (Choice(setting="model.norm", value="batch", reason="random weights have no statistics to keep"),)
    is_few = facts.num_images < FEW_IMAGES
    is_frozen = is_few or batch_size // facts.machine.processes < FEW_A_BATCH
    each = " for each process" if facts.machine.processes > 1 else ""
    why = f"fewer than {FEW_IMAGES:,} images" if is_few else f"fewer than {FEW_A_BATCH} images a step{each}"
    return (
        Choice(
            setting="model.norm",
            value="frozen" if is_frozen else "batch",
            reason=f"given weights and {why}" if is_frozen else "enough images to learn them anew",
        ),
        Choice(
            setting="model.frozen_stages",
            value=2 if is_few else 0,
            reason=f"the first two parts stay as given: {why}" if is_few else "everything learns",
        ),
        Choice(
            setting="optim.backbone_lr_factor",
            value=0.1 if is_few else 1.0,
            reason="a given trunk needs little change" if is_few else "enough images for the whole network",
        ),
    )


def _crops(facts: Facts, base: RunConfig) -> Choice:
    share = base.data.crops.share
    largest = levels.quantile(facts.sides, facts.weights, 0.95)
    if facts.machine.kind == "cuda":
        share, reason = 0.0, "whole images: a GPU needs no short cut"
    elif largest > _FITS_A_CUTOUT:
        share, reason = 0.0, f"whole images: objects reach {largest:.0%} of the canvas and would be cut"
    else:
        reason = f"of the run on quicker cut-outs; objects reach {largest:.0%} of the canvas"
    return Choice(setting="data.crops.share", value=share, reason=reason)


def _flips(facts: Facts) -> Sequence[Choice]:
    sided = [name for name in facts.classes if _SIDE_WORDS & set(re.split(r"[^a-z]+", name.lower()))]
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


def _length(
    facts: Facts, asked: Asked, base: RunConfig, batch_size: int, image_size: int, *, is_finer: bool
) -> Sequence[Choice]:
    """None where the user gave one."""
    if asked.length is not None:
        return ()
    if facts.machine.kind == "cpu" and facts.machine.processes == 1:
        larger = max(1.0, image_size / _usual_size(facts))
        finer = _FINER_TAKES if is_finer else 1.0
        usual = (base.length.minutes or 20) * math.sqrt(facts.num_images / 200) * larger * finer
        minutes = float(min(120, max(10, 5 * round(usual / 5))))
        also = ", their size" * (larger > 1) + ", level 2" * is_finer
        reason = f"by the number of images{also}; longer is better"
        return (Choice(setting="length.minutes", value=minutes, reason=reason),)
    return (Choice(setting="length.steps", value=_steps(facts, batch_size), reason="by the number of images"),)


def _steps(facts: Facts, batch_size: int) -> int:
    """Of the whole run."""
    low, high = _USUAL_STEPS
    if facts.num_images >= MANY_IMAGES:
        return max(high, math.ceil(36 * facts.num_images / batch_size))
    return int(min(high, max(low, 100 * round(60 * math.sqrt(facts.num_images / 200)))))


def _decoding(facts: Facts, base: RunConfig) -> Sequence[Choice]:
    decode = base.decode
    most = min(1000, max(_COCO_MAX_DETECTIONS, 50 * math.ceil(2 * facts.most_objects / 50)))
    iou = min(0.75, max(decode.nms_iou, 0.05 * round((facts.overlap + 0.1) / 0.05)))
    is_apart = facts.overlap < _HARDLY
    covers = f"one object in fifty covers another of its class by IoU {facts.overlap:.2f} or more"
    return (
        Choice(setting="decode.max_detections", value=most, reason=f"an image has up to {facts.most_objects} objects"),
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


def _decided(own: int | None, chosen: Choice) -> int:
    """The user's own value, or else the one that was chosen."""
    if own is not None:
        return own
    assert isinstance(chosen.value, int)
    return chosen.value
