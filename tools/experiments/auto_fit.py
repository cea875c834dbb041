"""Measure `--recipe auto` beside settings chosen by hand, on data that nobody has tuned on.

Two data sets are drawn (generated.py). On each, auto is trained, and then what a person would try: four pairs of image
size and levels, and the best of these at two more learning rates. All start from random weights and take the same count
of steps. The best by hand is chosen on the validation split, and both are scored on the test split. Results are kept in
auto_fit.jsonl beside this file; what is there is not run again, so the script can be stopped and started at any time:

    python tools/experiments/auto_fit.py --steps 600 --seeds 1      run what is missing, then print the ratio
    python tools/experiments/auto_fit.py --steps 600 --table        print only
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import generated
from ablation import ROOT, commit, detector, machine, seconds
from kept import Results, checksum_of_training

DATA = ROOT / "runs" / "generated"
COUNTS = {"train": 240, "val": 80, "test": 80}
SEED = 7


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ByHand:
    """Settings that a person would try."""

    image_size: int
    levels: tuple[int, int]
    lr: float = 3e-3

    def row(self) -> Row:
        first, last = self.levels
        settings = (
            f"model.pyramid.first_level={first}",
            f"model.pyramid.last_level={last}",
            "augment.vertical_flip=0",
            "decode.max_detections=200",
        )
        words = [word for one in settings for word in ("--set", one)]
        return Row(
            name=f"{self.image_size} px, levels {first}-{last}, lr {self.lr:g}",
            words=("--recipe", "small", "--image-size", str(self.image_size), "--lr", str(self.lr), *words),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a call of this script is for."""

    steps: int
    seeds: int
    train: bool
    """What is not known yet."""


AUTO = Row(name="auto", words=("--recipe", "auto"))
SIZES_AND_LEVELS = tuple(
    ByHand(image_size=size, levels=levels) for size, levels in product((320, 512), ((3, 6), (2, 5)))
)
OTHER_RATES = (1e-3, 6e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", choices=[kind.name for kind in generated.KINDS], help="this data set")
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    results: list[Result] = []
    for kind in generated.KINDS:
        train = not options.table and options.only in (None, kind.name)
        results += search(kind, Asked(steps=options.steps, seeds=options.seeds, train=train))
    print_table(results)


def search(kind: generated.Kind, asked: Asked) -> list[Result]:
    """Auto, and all that is tried by hand."""
    results = measured(kind, AUTO, asked)
    val_ap: dict[ByHand, float] = {}
    for tried in SIZES_AND_LEVELS:
        of_this = measured(kind, tried.row(), asked)
        results += of_this
        if of_this:
            val_ap[tried] = _mean([r.val_ap for r in of_this])
    if len(val_ap) == len(SIZES_AND_LEVELS):
        best = max(val_ap, key=val_ap.__getitem__)
        for lr in OTHER_RATES:
            results += measured(kind, replace(best, lr=lr).row(), asked)
    return results


def measured(kind: generated.Kind, row: Row, asked: Asked) -> list[Result]:
    """Of every seed, what is known."""
    results: list[Result] = []
    for seed in range(asked.seeds):
        training = Training(kind=kind, row=row, seed=seed, steps=asked.steps)
        settings = checksum_of_training(training.words())
        if asked.train:
            run(training, settings)
        results += found(training, settings)
    return results


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
        by_hand = [name for name in order if name != AUTO.name]
        if by_hand and AUTO.name in of_row:
            auto, best = (_mean([r.test_ap for r in of_row[name]]) for name in (AUTO.name, by_hand[0]))
            ratio = f"{auto / best:.3f}" if best > 0 else "not defined"
            lines.append(f"auto / best by hand, test AP: {ratio}")
        sys.stdout.write("\n".join(lines) + "\n")


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
