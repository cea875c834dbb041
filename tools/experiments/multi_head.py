"""Measure the multi-head choices on blood cells and write the table of docs/multi-head.md.

Every row is trained with several seeds for the same count of steps, from random weights, and scored on the validation
split at the end. Results are kept in multi_head.json beside this file; what is there is not run again, so the script
can be stopped and started at any time:

    python tools/experiments/multi_head.py --steps 160 --seeds 3      run what is missing, then rewrite the table
    python tools/experiments/multi_head.py --table                    rewrite the table only
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "multi-head.md"
BEGIN, END = "<!-- experiments: begin -->", "<!-- experiments: end -->"
DATA = "data/blood-cells"
TEACHER_STEPS = 4  # times the steps of a row

CLASS_HEAD = "{name: classification, kind: classification, tower: {depth: 2, width: 96}%s}"
BOX_HEAD = "{name: box, kind: box, tower: {depth: 2, width: 96}%s}"


def _heads(*heads: str) -> str:
    return f"model.heads=[{', '.join(heads)}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    group: str
    name: str
    recipe: str = "small"
    settings: tuple[str, ...] = ()
    has_teacher: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One training."""

    row: str
    seed: int
    steps: int
    ap: float
    ap50: float
    seconds: float
    commit: str
    machine: str


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
    Row(group="Distillation", name="one stage", recipe="distill-one-stage", has_teacher=True),
    Row(group="Distillation", name="two stages", recipe="distill-two-stage", has_teacher=True),
    Row(group="Distillation", name="three stages", recipe="distill-three-stage", has_teacher=True),
    Row(group="Stages", name="backbone frozen for the first fifth", settings=(FROZEN_FIRST,)),
)
REFERENCE = ROWS[0].name
REFERENCES = {
    "Topology": None,
    "Balancer": "fixed weights (= parallel heads)",
    "Distillation": "student alone (= parallel heads)",
    "Stages": "all at once (= parallel heads)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="rewrite the table only")
    options = parser.parse_args()
    results = _read()
    if not options.table:
        results = _run_missing(results, options.steps, options.seeds)
    _write_table(results)


def _run_missing(results: list[Result], steps: int, seeds: int) -> list[Result]:
    # Seed by seed, so that a table of one seed is whole before the next is begun.
    for seed in range(seeds):
        for row in ROWS:
            if any((r.row, r.seed, r.steps) == (row.name, seed, steps) for r in results):
                continue
            teacher = _teacher(steps) if row.has_teacher else None
            result = _train(row, seed, steps, teacher)
            results = [*_read(), result]
            RESULTS.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n", encoding="utf-8")
            sys.stderr.write(f"{row.name}, seed {seed}: AP {result.ap:.3f}  AP50 {result.ap50:.3f}\n")
            _write_table(results)
    return results


def _teacher(steps: int) -> Path:
    """A ResNet-34 of the same layout, trained longer; made once and kept with the runs."""
    path = ROOT / "runs" / f"teacher-r34-{TEACHER_STEPS * steps}"
    if not path.is_dir():
        path.parent.mkdir(exist_ok=True)
        # Under another name until it is whole: a training that was stopped leaves a model too.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            words = ["--steps", str(TEACHER_STEPS * steps), "--seed", "100", "--set", "model.backbone=resnet34"]
            _detector(
                "train", DATA, "--recipe", "small", *words, "--set", "length.evaluations=1", "--out", f"{folder}/run"
            )
            Path(folder, "run").rename(path)
    return path / "last.safetensors"


def _train(row: Row, seed: int, steps: int, teacher: Path | None) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        settings = [word for one in (*row.settings, "length.evaluations=1") for word in ("--set", one)]
        with_teacher = [] if teacher is None else ["--teacher", str(teacher)]
        answer = _detector(
            "train",
            DATA,
            "--recipe",
            row.recipe,
            "--steps",
            str(steps),
            "--seed",
            str(seed),
            "--out",
            f"{folder}/run",
            *settings,
            *with_teacher,
        )
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = max(float(json.loads(line)["seconds"]) for line in lines)
    return Result(
        row=row.name,
        seed=seed,
        steps=steps,
        ap=answer["scores"]["ap"],
        ap50=answer["scores"]["ap50"],
        seconds=round(seconds, 1),
        commit=_commit(),
        machine=f"{platform.machine()}, {os.cpu_count()} CPU cores",
    )


def _detector(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "detector", *words, "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def _read() -> list[Result]:
    if not RESULTS.is_file():
        return []
    return [Result(**row) for row in cast("list[dict[str, Any]]", json.loads(RESULTS.read_text(encoding="utf-8")))]


def _write_table(results: Sequence[Result]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n{_table(results)}\n{END}{after}", encoding="utf-8")


def _table(results: Sequence[Result]) -> str:
    steps = max((r.steps for r in results), default=0)
    of_row = {row.name: [r for r in results if r.row == row.name and r.steps == steps] for row in ROWS}
    lines = [
        f"{steps} steps a row. Spread is the standard deviation over seeds.",
        "",
        "| | what | seeds | val AP | spread | val AP50 |",
        "|---|---|---|---|---|---|",
    ]
    group = ""
    for row in ROWS:
        if row.group != group and REFERENCES[row.group]:
            lines.append(_line(row.group, REFERENCES[row.group] or "", of_row[REFERENCE]))
            group = row.group
        lines.append(_line("" if row.group == group else row.group, row.name, of_row[row.name]))
        group = row.group
    return "\n".join(lines)


def _line(group: str, name: str, found: Sequence[Result]) -> str:
    if not found:
        return f"| {group} | {name} | 0 | not measured | | |"
    ap = [r.ap for r in found]
    spread = f"{statistics.stdev(ap):.3f}" if len(ap) > 1 else ""
    ap50 = statistics.mean(r.ap50 for r in found)
    return f"| {group} | {name} | {len(ap)} | {statistics.mean(ap):.3f} | {spread} | {ap50:.3f} |"


if __name__ == "__main__":
    main()
