"""Measure `--recipe auto` beside a small grid of settings chosen by hand, on data that nobody has tuned on.

Two data sets are drawn (generated.py). On each, auto and every row of the grid are trained from random weights for the
same count of steps, the grid's best is chosen on the validation split, and both are scored on the test split. Results
are kept in auto_fit.jsonl beside this file; what is there is not run again, so the script can be stopped and started at
any time:

    python tools/experiments/auto_fit.py --steps 600 --seeds 1      run what is missing, then print the ratio
    python tools/experiments/auto_fit.py --steps 600 --table        print only
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import generated
from ablation import ROOT, commit, detector, machine, seconds
from kept import Results, checksum_of_training

DATA = ROOT / "runs" / "generated"
COUNTS = {"train": 240, "val": 80, "test": 80}
SEED = 7
AUTO = "auto"


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
    steps: int

    def words(self) -> tuple[str, ...]:
        """Of the command."""
        length = ("--steps", str(self.steps), "--seed", str(self.seed), "--set", "length.evaluations=1")
        return (str(drawn(self.kind)), *self.row.words, *length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One training."""

    data: str
    row: str
    seed: int
    steps: int
    val_ap: float
    test_ap: float
    test_ap50: float
    seconds: float
    commit: str
    machine: str
    settings: str
    """Checksum of those that it was trained with, its length and seed among them."""


KEPT = Results(Path(__file__).with_suffix(".jsonl"), Result)


def rows() -> tuple[Row, ...]:
    """Auto, and what a person would try: image size, levels, learning rate."""
    made = [Row(name=AUTO, words=("--recipe", "auto"))]
    for size, (first, last), lr in product((320, 512), ((3, 6), (2, 5)), (1e-3, 3e-3)):
        settings = (
            f"model.pyramid.first_level={first}",
            f"model.pyramid.last_level={last}",
            "augment.vertical_flip=0",
            "decode.max_detections=200",
        )
        words = [word for one in settings for word in ("--set", one)]
        made.append(
            Row(
                name=f"{size} px, levels {first}-{last}, lr {lr:g}",
                words=("--recipe", "small", "--image-size", str(size), "--lr", str(lr), *words),
            )
        )
    return tuple(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=None, help="only the first rows, to try the script")
    parser.add_argument("--only", choices=[kind.name for kind in generated.KINDS], help="this data set")
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    results: list[Result] = []
    for kind in generated.KINDS:
        for seed, row in product(range(options.seeds), rows()[: options.rows]):
            training = Training(kind=kind, row=row, seed=seed, steps=options.steps)
            settings = checksum_of_training(training.words())
            if not options.table and options.only in (None, kind.name):
                run(training, settings)
            results += found(training, settings)
    print_table(results)


def found(training: Training, settings: str) -> list[Result]:
    """Its results that are kept."""
    key = (training.kind.name, training.row.name, settings)
    return [one for one in KEPT.read() if (one.data, one.row, one.settings) == key]


def run(training: Training, settings: str) -> None:
    """Train, unless it is known how that ends."""
    if found(training, settings):
        return
    result = trained(training, settings)
    KEPT.add(result)
    about = f"{result.data}, {result.row}, seed {result.seed}"
    sys.stderr.write(f"{about}: val {result.val_ap:.3f}, {result.seconds:.0f} s\n")


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
        tested = detector("eval", f"{out}/run/last.safetensors", training.words()[0], "--split", "test")
        took = seconds(Path(out, "run"))
    return Result(
        data=training.kind.name,
        row=training.row.name,
        seed=training.seed,
        steps=training.steps,
        val_ap=answer["scores"]["ap"],
        test_ap=tested["scores"]["ap"],
        test_ap50=tested["scores"]["ap50"],
        seconds=took,
        commit=commit(),
        machine=machine(),
        settings=settings,
    )


def print_table(results: Sequence[Result]) -> None:
    """Every row by its validation AP, and what auto has of the best by hand on the test split."""
    for data in dict.fromkeys(r.data for r in results):
        of_row: dict[str, list[Result]] = {}
        for result in results:
            if result.data == data:
                of_row.setdefault(result.row, []).append(result)
        order = sorted(of_row, key=lambda name: -_mean([r.val_ap for r in of_row[name]]))
        lines = [f"\n{data}\n{'val AP':>8}{'test AP':>9}{'AP50':>8}{'min':>7}  seeds"]
        for name in order:
            of_this = of_row[name]
            lines.append(
                f"{_mean([r.val_ap for r in of_this]):8.3f}{_mean([r.test_ap for r in of_this]):9.3f}"
                f"{_mean([r.test_ap50 for r in of_this]):8.3f}{_mean([r.seconds for r in of_this]) / 60:7.1f}"
                f"  {len(of_this)}  {name}"
            )
        by_hand = [name for name in order if name != AUTO]
        if by_hand and AUTO in of_row:
            auto, best = (_mean([r.test_ap for r in of_row[name]]) for name in (AUTO, by_hand[0]))
            ratio = f"{auto / best:.3f}" if best > 0 else "not defined"
            lines.append(f"auto / best by hand, test AP: {ratio}")
        sys.stdout.write("\n".join(lines) + "\n")


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
