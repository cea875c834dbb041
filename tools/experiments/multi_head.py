"""Measure the multi-head choices on blood cells and write the table of docs/multi-head.md.

Every row is trained with several seeds for the same count of steps, from random weights, and scored on the validation
split at the end. Results are kept in multi_head.jsonl beside this file; what is there is not run again, so the script
can be stopped and started at any time:

    python tools/experiments/multi_head.py --steps 160 --seeds 3      run what is missing, then rewrite the table
    python tools/experiments/multi_head.py --table                    rewrite the table only
"""

import tempfile
from pathlib import Path

from ablation import Row, Study
from place import Place
from program import DATA, ROOT, detector
from recipe_sums import checksum

TEACHER_STEPS = 4  # times the steps of a row

CLASS_HEAD = "{name: classification, kind: classification, tower: {depth: 2, width: 96}%s}"
BOX_HEAD = "{name: box, kind: box, tower: {depth: 2, width: 96}%s}"


def _heads(*heads: str) -> str:
    return f"model.heads=[{', '.join(heads)}]"


def _teacher(steps: int) -> tuple[str, ...]:
    """A ResNet-34 of the same layout, trained longer; made once and kept with the runs."""
    path = ROOT / "runs" / f"teacher-r34-{checksum(['small'])}-{TEACHER_STEPS * steps}"
    if not path.is_dir():
        path.parent.mkdir(exist_ok=True)
        # Under another name until it is whole: a training that was stopped leaves a model too.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            words = [
                "--steps",
                str(TEACHER_STEPS * steps),
                "--seed",
                "100",
                "--init",
                "none",
                "--set",
                "model.backbone=resnet34",
            ]
            detector(
                *("train", DATA, "--recipe", "small", *words, "--set", "length.evaluations=1", "--out", f"{folder}/run")
            )
            Path(folder, "run").rename(path)
    return "--teacher", str(path / "last.safetensors")


FROZEN_FIRST = "stages=[{name: heads, share: 0.2, learn: [neck, heads]}, {name: all, share: 0.8}]"
ROWS = (
    Row(group="Topology", name="parallel heads"),
    Row(
        group="Topology",
        name="cascade, classification feeds box",
        settings=(_heads(CLASS_HEAD % "", BOX_HEAD % ", input: classification"),),
    ),
    Row(
        group="Topology",
        name="cascade, box feeds classification",
        settings=(_heads(BOX_HEAD % "", CLASS_HEAD % ", input: box"),),
    ),
    Row(
        group="Topology",
        name="three heads, with box quality",
        settings=(
            _heads(CLASS_HEAD % "", BOX_HEAD % "", "{name: quality, kind: quality, tower: {depth: 1, width: 96}}"),
        ),
    ),
    *(
        Row(group="Balancer", name=kind, settings=(f"balance.kind={kind}",))
        for kind in ("uncertainty", "dwa", "gradnorm", "imtl_g", "mgda", "pcgrad", "cagrad")
    ),
    Row(group="Distillation", name="one stage", recipe="distill-one-stage", words=_teacher),
    Row(group="Distillation", name="two stages", recipe="distill-two-stage", words=_teacher),
    Row(group="Distillation", name="three stages", recipe="distill-three-stage", words=_teacher),
    Row(group="Stages", name="backbone frozen for the first fifth", settings=(FROZEN_FIRST,)),
)
STUDY = Study(
    rows=ROWS,
    results=Path(__file__).with_suffix(".jsonl"),
    place=Place(page=ROOT / "docs" / "multi-head.md", mark="experiments"),
    references={
        "Balancer": "fixed weights (= parallel heads)",
        "Distillation": "student alone (= parallel heads)",
        "Stages": "all at once (= parallel heads)",
    },
)


if __name__ == "__main__":
    STUDY.main(__doc__, steps=160)
