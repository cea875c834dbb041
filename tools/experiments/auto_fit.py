"""Measure `--recipe auto` beside settings chosen by hand; docs/automatic.md says which of the data made its rules.

Data sets are drawn (generated.py). On each, auto is trained, and then what a person would try, in short runs: three
learning rates on small pictures, then larger pictures and a finer level with the best of these, then a larger weight
for the loss of the classes with the best of all. At last auto is trained for as long as it takes by itself, and what
was best by hand, on the validation split, for as long. All start from random weights. Those of one table have the same
minutes, on one thread: what makes a step slower has fewer of them. So run them on a machine that has nothing else to
do, or always the same. Auto and the best by hand are compared on the test split. Results are kept in auto_fit.jsonl
beside this file; what is there is not run again, so the script can be stopped and started at any time:

    export OMP_NUM_THREADS=1
    python tools/experiments/auto_fit.py --only posters --minutes 8      run what is missing, then rewrite the table
    python tools/experiments/auto_fit.py --table                         rewrite the table of docs/automatic.md only
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import generated
import torch
from kept import Results
from place import Place
from program import ROOT, commit, detector, machine, steps
from recipe_sums import checksum, checksum_of_training, settings_of_training

DATA = ROOT / "runs" / "generated"
COUNTS = {"train": 240, "val": 80, "test": 80}
SEED = 7
ON_A_CPU = ("--device", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to train."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One to be run."""

    kind: generated.Kind
    row: Row
    seed: int
    minutes: float

    def words(self) -> tuple[str, ...]:
        """Of the command."""
        length = ("--minutes", f"{self.minutes:g}", "--seed", str(self.seed), "--set", "length.evaluations=1")
        return (str(drawn(self.kind)), *self.row.words, *ON_A_CPU, *length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One training."""

    data: str
    row: str
    seed: int
    minutes: float
    """That it was given."""
    steps: int
    """That it took in them."""
    val_ap: float
    test_ap: float
    test_ap50: float
    commit: str
    machine: str
    threads: int
    recipes: str
    """Checksum of the settings that all rows begin with."""
    settings: str
    """Checksum of those that it was trained with, its length and seed among them."""


KEPT = Results(Path(__file__).with_suffix(".jsonl"), Result)
PLACE = Place(page=ROOT / "docs" / "automatic.md", mark="measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """Settings that a person would try."""

    image_size: int
    levels: tuple[int, int]
    lr: float
    class_weight: float = 1.0

    def row(self) -> Row:
        first, last = self.levels
        settings = (
            f"model.pyramid.first_level={first}",
            f"model.pyramid.last_level={last}",
            "augment.vertical_flip=0",
            "decode.max_detections=200",
        )
        is_heavier = self.class_weight != 1
        if is_heavier:
            settings = (*settings, f"loss.classification_weight={self.class_weight:g}")
        words = [word for one in settings for word in ("--set", one)]
        heavier = f", class weight {self.class_weight:g}" * is_heavier
        return Row(
            name=f"{self.image_size} px, levels {first}-{last}, lr {self.lr:g}{heavier}",
            words=("--recipe", "small", "--image-size", str(self.image_size), "--lr", str(self.lr), *words),
        )


AUTO = Row(name="auto", words=("--recipe", "auto"))
QUICKEST, *OTHERS = (
    ByHand(image_size=size, levels=levels, lr=3e-3)
    for size, levels in ((320, (3, 6)), (512, (2, 5)), (320, (2, 5)), (512, (3, 6)))
)
RATES = (5e-4, 1e-3, 3e-3)
HEAVIER = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="of a short run")
    parser.add_argument("--seeds", type=int, default=1, help="of the runs as long as auto takes")
    parser.add_argument("--only", choices=[kind.name for kind in generated.KINDS], help="this data set")
    parser.add_argument("--table", action="store_true", help="rewrite the page only")
    options = parser.parse_args()
    for kind in generated.KINDS:
        if not options.table and options.only in (None, kind.name):
            best = search(kind, options.minutes)
            compare(kind, (AUTO, best), options.seeds)
    PLACE.write(table(latest()))


def search(kind: generated.Kind, minutes: float) -> Row:
    """Train auto and all that is tried by hand, in short runs; the best by hand."""

    def val_ap(row: Row) -> float:
        return measured(Training(kind=kind, row=row, seed=0, minutes=minutes)).val_ap

    def best(tried: Sequence[ByHand]) -> ByHand:
        return max(tried, key=lambda one: val_ap(one.row()))

    val_ap(AUTO)
    quick = best([replace(QUICKEST, lr=lr) for lr in RATES])
    whole = best([quick, *(replace(other, lr=quick.lr) for other in OTHERS)])
    return best([whole, replace(whole, class_weight=HEAVIER)]).row()


def compare(kind: generated.Kind, rows: Sequence[Row], seeds: int) -> None:
    """Train for as long as auto takes by itself."""
    minutes = settings_of_training((str(drawn(kind)), *AUTO.words, *ON_A_CPU)).length.minutes
    assert minutes is not None
    for seed in range(seeds):
        for row in rows:
            measured(Training(kind=kind, row=row, seed=seed, minutes=minutes))


def measured(training: Training) -> Result:
    """Train, unless it is known how that ends."""
    settings = checksum_of_training(training.words())
    key = (training.kind.name, training.row.name, settings)
    known = [one for one in KEPT.read() if (one.data, one.row, one.settings) == key]
    if known:
        return known[-1]
    result = trained(training, settings)
    KEPT.add(result)
    about = f"{result.data}, {result.row}, seed {result.seed}"
    sys.stderr.write(f"{about}: val {result.val_ap:.3f}, {result.steps} steps\n")
    return result


def latest() -> list[Result]:
    """Of each training on the same recipe as the last one on these data, the newest."""
    results = KEPT.read()
    last = {r.data: r.recipes for r in results}
    alike = [r for r in results if r.recipes == last[r.data]]
    return list({(r.data, r.minutes, r.row, r.seed): r for r in alike}.values())


def drawn(kind: generated.Kind) -> Path:
    """Its folder; under another name until it is whole."""
    folder = DATA / f"{kind.name}-{SEED}"
    if not folder.is_dir():
        DATA.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DATA) as half:
            generated.write(Path(half) / "data", kind, COUNTS, SEED)
            (Path(half) / "data").rename(folder)
    return folder


def trained(training: Training, settings: str) -> Result:
    with tempfile.TemporaryDirectory() as out:
        answer = detector("train", *training.words(), "--out", f"{out}/run")
        tested = detector("eval", f"{out}/run/last.safetensors", training.words()[0], "--split", "test", *ON_A_CPU)
        took = steps(Path(out, "run"))
    return Result(
        data=training.kind.name,
        row=training.row.name,
        seed=training.seed,
        minutes=training.minutes,
        steps=took,
        val_ap=answer["scores"]["ap"],
        test_ap=tested["scores"]["ap"],
        test_ap50=tested["scores"]["ap50"],
        commit=commit(),
        machine=machine(),
        threads=torch.get_num_threads(),
        recipes=checksum(["small"]),
        settings=settings,
    )


def table(results: Sequence[Result]) -> str:
    """Every row by its validation AP, and what auto has of the best by hand on the test split, by data and minutes."""
    if not results:
        return "Not measured yet."
    commits = ", ".join(f"`{one}`" for one in dict.fromkeys(r.commit for r in results))
    machines = "; ".join(dict.fromkeys(f"{r.machine}, {_counted(r.threads, 'thread')}" for r in results))
    lines = [f"{_counted(len(results), 'training')}, commit {commits}, {machines}."]
    for data, minutes in sorted(dict.fromkeys((r.data, r.minutes) for r in results)):
        lines += ["", *_part([r for r in results if (r.data, r.minutes) == (data, minutes)])]
    return "\n".join(lines)


def _part(results: Sequence[Result]) -> list[str]:
    """On one data set, of the same minutes."""
    of_row: dict[str, list[Result]] = {}
    for result in results:
        of_row.setdefault(result.row, []).append(result)
    order = sorted(of_row, key=lambda name: -_mean([r.val_ap for r in of_row[name]]))
    about = f"`{results[0].data}`, {results[0].minutes:g} minutes each"
    lines = [f"| {about} | runs | steps | val AP | test AP | test AP50 |", "|---|---|---|---|---|---|"]
    for name in order:
        of_this = of_row[name]
        lines.append(
            f"| {name} | {len(of_this)} | {_mean([r.steps for r in of_this]):.0f} "
            f"| {_mean([r.val_ap for r in of_this]):.3f} | {_mean([r.test_ap for r in of_this]):.3f} "
            f"| {_mean([r.test_ap50 for r in of_this]):.3f} |"
        )
    by_hand = [name for name in order if name != AUTO.name]
    if by_hand and AUTO.name in of_row:
        auto, best = (_mean([r.test_ap for r in of_row[name]]) for name in (AUTO.name, by_hand[0]))
        ratio = f"{auto / best:.3f}" if best > 0 else "not defined"
        lines += ["", f"{about}: on the test split auto has {ratio} of the AP of the best by hand."]
    return lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
