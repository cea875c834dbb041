"""Score a recipe on a small data set by cross-validation: every image is predicted by a model that has not seen it.

The images of all splits are dealt into parts. For each part one model is trained on the others, without looking at any
score, and its last weights are scored on the part. Results are kept in folds.jsonl beside this file; what is there is
not run again:

    python tools/experiments/folds.py path/to/raccoon --folds 5 --recipe small --steps 2000
    python tools/experiments/folds.py path/to/raccoon --folds 5 --recipe small --steps 2000 --set augment.mosaic=0.5
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from joined import Coco, gather
from kept import Results
from program import commit, detector, machine, seconds
from recipe_sums import checksum_of_training

from detector.data import coco, layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One part."""

    data: str
    words: str
    folds: int
    fold: int
    images: int
    objects: int
    ap: float
    ap50: float
    ap75: float
    seconds: float
    commit: str
    machine: str
    settings: str
    """Checksum of those that the words come to on the whole training split; `auto` fits them to each part."""


KEPT = Results(Path(__file__).with_suffix(".jsonl"), Result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with splits over one folder of images")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, action="append", help="this part, counted from 0; again for more")
    options, words = parser.parse_known_args()
    data = options.data.resolve()
    whole, images = gather(data, layout.available_splits(data))
    settings = checksum_of_training([str(data), *words])
    named = {"data": data.name, "words": " ".join(words), "folds": options.folds, "settings": settings}
    for fold, held in enumerate(parts(len(whole["images"]), options.folds)):
        is_there = any(asdict(one) | named | {"fold": fold} == asdict(one) for one in KEPT.read())
        if not is_there and (options.only is None or fold in options.only):
            KEPT.add(_one(whole, images, held, words, named | {"fold": fold}))
        if known := [one for one in KEPT.read() if asdict(one) | named == asdict(one)]:
            print_table(known)


def parts(count: int, folds: int) -> Sequence[frozenset[int]]:
    """Image ids of each part: equal for equal counts."""
    shuffled = np.random.default_rng(0).permutation(count) + 1
    return [frozenset(shuffled[fold::folds].tolist()) for fold in range(folds)]


def dealt(whole: Coco, held: frozenset[int]) -> tuple[Coco, Coco]:
    """What is learned from, and the part that is held out."""
    return _only(whole, {image["id"] for image in whole["images"]} - held), _only(whole, held)


def _one(whole: Coco, images: Path, held: frozenset[int], words: Sequence[str], named: dict[str, Any]) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        learned, tested = Path(folder, "train.json"), Path(folder, "test.json")
        for path, part in zip((learned, tested), dealt(whole, held), strict=True):
            path.write_text(json.dumps(part), encoding="utf-8")
        files = ("--images", str(images))
        detector("train", "--train-json", str(learned), *files, "--out", f"{folder}/run", *words)
        scores = detector(
            "eval", f"{folder}/run/last.safetensors", "--annotations", str(tested), *files, "--out", f"{folder}/eval"
        )["scores"]
        took = seconds(Path(folder, "run"))
    return Result(
        **named,
        images=len(held),
        objects=sum(one["image_id"] in held for one in whole["annotations"]),
        ap=scores["ap"],
        ap50=scores["ap50"],
        ap75=scores["ap75"],
        seconds=took,
        commit=commit(),
        machine=machine(),
    )


def _only(whole: Coco, ids: set[int] | frozenset[int]) -> Coco:
    return coco.part(whole, [row for row, image in enumerate(whole["images"]) if image["id"] in ids])


def print_table(results: Sequence[Result]) -> None:
    lines = [f"{'fold':>4}{'images':>8}{'AP':>8}{'AP50':>8}{'AP75':>8}{'min':>7}"]
    lines += [
        f"{r.fold:4d}{r.images:8d}{r.ap:8.3f}{r.ap50:8.3f}{r.ap75:8.3f}{r.seconds / 60:7.1f}"
        for r in sorted(results, key=lambda r: r.fold)
    ]
    means = "".join(f"{statistics.fmean(getattr(r, name) for r in results):8.3f}" for name in ("ap", "ap50", "ap75"))
    sys.stdout.write("\n".join([*lines, f"{'mean':>4}{'':8}{means}"]) + "\n\n")


if __name__ == "__main__":
    main()
