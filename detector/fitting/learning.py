"""Rules for how the network learns: batch, rates, losses, norms, length."""

import math
from collections.abc import Sequence
from typing import Final

from detector import recipes
from detector.config import Backbone, LengthConfig, RunConfig
from detector.fitting import view
from detector.fitting.base import Base
from detector.fitting.choice import Choice
from detector.fitting.facts import Asked, Facts
from detector.train import scaling, schedule

_FEW_IMAGES = 1000
"""With objects. Up to here, norms of given weights are better than those that batches give."""
_FEWEST_FOR_GIVEN_NORMS = 8
"""Images of a batch in each process; with fewer, norms of given weights are better."""
_FEWEST_FOR_NORMS = 4
"""Images of a batch in each process, as recipe `small` has them: random weights have no norms but those of batches."""
_GPU_BATCH_OF_FEW = 8
_GPU_SHARE = 0.7
"""Of its memory; the rest is for what no estimate knows."""
_GIB = 2**30
_GIB_PER_PIXEL: Final[dict[Backbone, float]] = {
    "resnet18": 0.25 / 640**2,
    "resnet34": 0.35 / 640**2,
    "resnet50": 0.7 / 640**2,
    "resnet101": 1.0 / 640**2,
}
"""Of an image in training, bfloat16. A guess on the safe side."""
_MOST_TIMES_LR = 2.0
_USUAL_STEPS = (2000, 12_000)
"""On a GPU: the least and, but for many images, the most."""
_USUAL_EPOCHS = 36
"""Of many images on a GPU: those of recipe coco-3x."""
_LR = 1e-3
"""Of recipe `small`, by its batch on a CPU and by 8 images on a GPU. Three times as much, its own, gains 0.009 on blood
cells in 2,448 steps (docs/accuracy.md) and loses 0.06 of 0.37 on data of twenty classes (docs/automatic.md)."""
_SGD_LR, _SGD_WEIGHT_DECAY = 0.02, 1e-4
"""Of recipe `small` (tools/experiments/accuracy.py)."""
_CLASSES_PER_WEIGHT, _MOST_WEIGHT = 5, 3.0
"""The loss of the classes weighs 1 for each five of them, from 1 to 3. With 16 classes a weight of 1 leaves
it a quarter of the gradient, and classes are hardly told apart at the end of a short run (docs/automatic.md)."""
_FOR_IMAGES = 200
"""With objects: for so many are the minutes of recipe `small`, and 6,000 steps on a GPU."""
_FINER_TAKES = 1.5
"""Times as long a step with level 2 as one without; measured on a CPU (docs/accuracy.md)."""


def batch_size(facts: Facts, asked: Asked, base: Base, image_size: int) -> Choice:
    machine = facts.machine
    size, reason = _usual_batch(facts, base)
    each_takes = math.ceil(size / machine.processes)
    learns_norms = asked.norm == "batch" or (asked.norm is None and not asked.has_weights)
    if each_takes < _FEWEST_FOR_NORMS and learns_norms:
        each_takes, reason = _FEWEST_FOR_NORMS, "norms need several"
    if machine.kind == "cuda" and machine.memory_bytes is not None:
        pixels = image_size**2 * facts.canvas_shape[0] * facts.canvas_shape[1]
        of_one = _GIB_PER_PIXEL[asked.backbone or base.config.model.backbone] * pixels * _GIB
        fitting = max(1, int(_GPU_SHARE * machine.memory_bytes / of_one))
        if fitting < each_takes:
            each_takes = 2 ** int(math.log2(fitting))
            reason = f"what fits into {machine.memory_bytes / _GIB:.0f} GiB"
    if machine.processes > 1:
        reason = f"{each_takes} for each process; {reason}"
    return Choice(setting="data.batch_size", value=each_takes * machine.processes, reason=reason)


def _usual_batch(facts: Facts, base: Base) -> tuple[int, str]:
    """For which the rates are, and why it is that."""
    if facts.machine.kind == "cpu":
        return base.config.data.batch_size, "on a CPU more steps are worth more than larger ones"
    if base.is_large:
        return base.config.data.batch_size, "usual"
    return _GPU_BATCH_OF_FEW, "few images: more and smaller steps"


def rates(facts: Facts, asked: Asked, base: Base, batch_size: int) -> Sequence[Choice]:
    optim = base.config.optim
    decay: tuple[Choice, ...] = ()
    if asked.optimizer == "sgd":
        lr, reason = _sgd_rate(base)
        decay = (Choice(setting="optim.weight_decay", value=_SGD_WEIGHT_DECAY, reason="usual of SGD"),)
    elif not base.is_large:
        lr, reason = _LR, "a third of that of recipe small: safer on unknown data"
    elif asked.has_weights:
        lr, reason = recipes.coco_1x().optim.lr, "from given weights: that of recipe coco-1x"
    else:
        lr, reason = optim.lr, "from random weights"
    usual, _ = _usual_batch(facts, base)
    if batch_size != usual:
        factor = min(_MOST_TIMES_LR, scaling.lr_factor(asked.optimizer, batch_size, usual))
        lr, reason = float(f"{lr * factor:.2g}"), f"{reason}; times {factor:.2g} for the batch"
    return (
        Choice(setting="optim.lr", value=lr, reason=reason),
        *decay,
        Choice(
            setting="optim.ema_width",
            value=optim.ema_width,
            reason=f"weights are averaged over the last {optim.ema_width:.0%} of the run so far",
        ),
    )


def _sgd_rate(base: Base) -> tuple[float, str]:
    if base.is_large:
        return recipes.retinanet().optim.lr, "of SGD: that of recipe retinanet"
    return _SGD_LR, "of SGD, which learns more slowly here than AdamW"


def losses(facts: Facts, base: Base) -> Sequence[Choice]:
    """Empty where the recipe is one for many classes."""
    if base.is_large:
        return ()
    many = len(facts.seen)
    factor = min(_MOST_WEIGHT, max(1.0, round(2 * many / _CLASSES_PER_WEIGHT) / 2))
    reason = "as usual" if factor == 1 else "the more of them, the longer it takes to tell them apart"
    return (
        Choice(
            setting="loss.classification_weight",
            value=factor * base.config.loss.classification_weight,
            reason=f"{many} class{'es' * (many != 1)} with objects: {reason}",
        ),
    )


def warm_up(facts: Facts, base: Base, settled: RunConfig) -> Choice:
    """By the length of the run, on which the user and the other choices have decided."""
    steps = schedule.plan(settled, num_images=facts.num_images).steps
    usual = base.config.optim.warmup_steps
    value = usual if steps is None else min(usual, max(1, steps // 20))
    reason = "steps in which the rate rises"
    return Choice(
        setting="optim.warmup_steps",
        value=value,
        reason=reason if value == usual else f"a twentieth of {steps} steps, in which the rate rises",
    )


def norms(facts: Facts, asked: Asked, batch_size: int) -> Sequence[Choice]:
    if not asked.has_weights:
        return (Choice(setting="model.norm", value="batch", reason="random weights have no statistics to keep"),)
    is_few = facts.num_with_objects < _FEW_IMAGES
    is_frozen = is_few or batch_size // facts.machine.processes < _FEWEST_FOR_GIVEN_NORMS
    each = " for each process" if facts.machine.processes > 1 else ""
    why = (
        f"fewer than {_FEW_IMAGES:,} images" if is_few else f"fewer than {_FEWEST_FOR_GIVEN_NORMS} images a step{each}"
    )
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


def length(facts: Facts, asked: Asked, base: Base, batch_size: int, image_size: int, *, is_finer: bool) -> Choice:
    """Images without objects are drawn too, so they make a run longer."""
    if asked.length is not None:
        return _own_length(asked.length)
    if facts.machine.kind == "cpu":
        larger = max(1.0, image_size / view.usual_size(facts))
        finer = _FINER_TAKES if is_finer else 1.0
        usual = base.config.length.minutes
        assert usual is not None
        wanted = usual * _times_as_long(facts) * larger * finer
        minutes = float(min(120, max(10, 5 * round(wanted / 5))))
        also = ", their size" * (larger > 1) + ", level 2" * is_finer
        reason = f"by the number of images{also}; longer is better"
        return Choice(setting="length.minutes", value=minutes, reason=reason)
    steps = _steps(facts, base, batch_size)
    return Choice(setting="length.steps", value=steps, reason="by the number of images")


def _own_length(length: LengthConfig) -> Choice:
    of_setting = {
        "length.epochs": length.epochs,
        "length.steps": length.steps,
        "length.minutes": length.minutes,
    }
    setting, value = next((name, value) for name, value in of_setting.items() if value is not None)
    return Choice(setting=setting, value=value, reason="yours")


def _steps(facts: Facts, base: Base, batch_size: int) -> int:
    """Of the whole run."""
    low, high = _USUAL_STEPS
    if base.is_large:
        return max(high, math.ceil(_USUAL_EPOCHS * facts.num_images / batch_size))
    return int(min(high, max(low, 100 * round(60 * _times_as_long(facts)))))


def _times_as_long(facts: Facts) -> float:
    """As for `_FOR_IMAGES` images that all have objects."""
    return math.sqrt(facts.num_with_objects / _FOR_IMAGES) * facts.num_images / facts.num_with_objects
