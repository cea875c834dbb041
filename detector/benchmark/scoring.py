"""Scoring two COCO files, reading included: this package beside pycocotools as its documentation has it."""

import contextlib
import dataclasses
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.benchmark import coco_files, contest
from detector.benchmark.contest import Measured, Report
from detector.evaluate import coco, engines
from detector.evaluate.coco import Scores

NUM_IMAGES = 5_000  # as COCO's val2017
NUM_OBJECTS = 37_000
NUM_DETECTIONS = 500_000
WAYS = ("detector", "pycocotools")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    num_images: int = NUM_IMAGES
    num_objects: int = NUM_OBJECTS
    num_detections: int = NUM_DETECTIONS
    rounds: int = 5


def measure(settings: Settings, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on."""
    with tempfile.TemporaryDirectory() as folder:
        truth_path, results_path = Path(folder, "truth.json"), Path(folder, "results.json")
        say("writing the files")
        truth = coco_files.write_truth(truth_path, num_images=settings.num_images, num_objects=settings.num_objects)
        coco_files.write_detections(results_path, truth, num_detections=settings.num_detections)
        return contest.compare(
            "scores of two files, and the twelve numbers and the AP of every class to be equal to the last bit",
            dataclasses.asdict(settings),
            lambda way: contest.run_child(__spec__.name, [way, str(truth_path), str(results_path)]),
            ways=WAYS,
            reference="pycocotools",
            rounds=settings.rounds,
            say=say,
        )


def run(way: str, truth: Path, results: Path) -> Measured:
    """One way, in this process."""
    if way == "detector":
        return contest.measured(lambda: coco.score(truth, results), _of_scores)
    return contest.measured(lambda: _by_pycocotools(truth, results), _of_evaluation)


def _of_scores(scores: Scores) -> dict[str, Any]:
    return {"twelve": list(scores.twelve()), "per_class": [entry.ap for entry in scores.per_class]}


def _of_evaluation(evaluation: COCOeval) -> dict[str, Any]:
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    per_class = [engines.known_mean(precision[:, :, k]) for k in range(precision.shape[2])]
    return {"twelve": evaluation.stats.tolist(), "per_class": per_class}


def _by_pycocotools(truth: Path, results: Path) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(truth))
        evaluation = COCOeval(objects, objects.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


if __name__ == "__main__":
    contest.print_measured(run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
