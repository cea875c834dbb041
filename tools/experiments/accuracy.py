"""Measure what each ingredient of recipe `small` gives on blood cells and write the table of docs/accuracy.md.

Every row is the recipe with one thing taken away or put in, trained from random weights for the same count of steps
with several seeds, and scored on the validation split at the end. Results are kept in accuracy.jsonl beside this file;
what is there is not run again:

    python tools/experiments/accuracy.py --steps 200 --seeds 3        run what is missing, then rewrite the table
    python tools/experiments/accuracy.py --only GIoU --only focal     these rows alone
    python tools/experiments/accuracy.py --table                      rewrite the table only
"""

from pathlib import Path

from ablation import Row, Study
from place import Place
from program import ROOT

QUALITY_HEADS = (
    "model.heads=["
    "{name: classification, kind: classification, tower: {depth: 2, width: 96}}, "
    "{name: box, kind: box, tower: {depth: 2, width: 96}}, "
    "{name: quality, kind: quality, tower: {depth: 1, width: 96}}]"
)


def _row(group: str, name: str, *settings: str) -> Row:
    return Row(group=group, name=name, settings=settings)


def _seen(name: str, *decode: str) -> Row:
    return Row(group="Looking", name=name, decode=decode)


ROWS = (
    Row(group="Recipe", name="small"),
    _row("Box loss", "smooth-L1 alone", "loss.giou_weight=0", "loss.smooth_l1_weight=0.5"),
    _row("Box loss", "GIoU alone", "loss.smooth_l1_weight=0"),
    _row("Cross entropy", "softmax", "loss.classification=softmax"),
    _row("Cross entropy", "sigmoid", "loss.classification=sigmoid"),
    _row("Cross entropy", "focal", "loss.classification=focal"),
    _row("Cross entropy", "three times the weight", "loss.classification_weight=3"),
    _row("Assignment", "max-IoU", "assign.kind=max_iou"),
    _row("Assignment", "task-aligned after ATSS", "assign.kind=task_aligned"),
    _row("Heads", "with box quality", QUALITY_HEADS),
    _row("Heads", "no GroupNorm", *(f"model.heads.{name}.tower.norm=none" for name in ("classification", "box"))),
    _row("Priors", "side 3 strides", "model.priors.scales=[3]"),
    _row("Priors", "side 8 strides", "model.priors.scales=[8]"),
    _row("Priors", "levels 3 to 5", "model.pyramid.last_level=5"),
    _row("Priors", "levels 2 to 5", "model.pyramid.first_level=2", "model.pyramid.last_level=5"),
    _row("Priors", "levels 3 to 7", "model.pyramid.last_level=7"),
    _row("Pictures", "no cut-outs", "data.crops.share=0"),
    _row("Pictures", "256 pixels", "data.image_size=256"),
    _row("Pictures", "384 pixels", "data.image_size=384"),
    _row("Augmentation", "no flips", "augment.horizontal_flip=0", "augment.vertical_flip=0"),
    _row("Augmentation", "no zoom", "augment.scale=[1, 1]", "augment.aspect=[1, 1]"),
    _row("Augmentation", "no colours", *(f"augment.{x}=0" for x in ("brightness", "contrast", "saturation", "hue"))),
    _row("Augmentation", "quarter turns", "augment.quarter_turns=0.75"),
    _row("Augmentation", "mosaic", "augment.mosaic=0.5"),
    _row("Augmentation", "mixup", "augment.mixup=0.3"),
    _row("Augmentation", "copy-paste", "augment.copy_paste.probability=0.5"),
    _row("Augmentation", "no clean last part", "augment.clean_share=0"),
    _row("Norms of the trunk", "group", "model.norm=group"),
    _row("Optimizer", "no averaging of weights", "optim.ema_width=0"),
    _row("Optimizer", "half the rate", "optim.lr=0.0015"),
    _row("Optimizer", "twice the rate", "optim.lr=0.006"),
    _row("Optimizer", "SGD", "optim.name=sgd", "optim.lr=0.02", "optim.weight_decay=0.0001"),
    _row("Schedule", "no warm-up", "optim.warmup_steps=0"),
    _row("Schedule", "no cosine", "optim.final_lr_factor=1"),
    _seen("one size, no votes", "decode.zooms=[1.0]", "decode.voting=0"),
    _seen("no votes", "decode.voting=0"),
    _seen("one size", "decode.zooms=[1.0]"),
    _seen("mirrored too", "decode.mirror=true"),
    _seen("suppression at IoU 0.5", "decode.nms_iou=0.5"),
    _seen("suppression at IoU 0.7", "decode.nms_iou=0.7"),
)
STUDY = Study(
    rows=ROWS,
    results=Path(__file__).with_suffix(".jsonl"),
    place=Place(page=ROOT / "docs" / "accuracy.md", mark="ingredients"),
)


if __name__ == "__main__":
    STUDY.main(__doc__, steps=200)
