"""Both engines give the arrays of pycocotools, on data sets full of what scorers get wrong."""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.evaluate import engines
from detector.evaluate.coco import score
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results
from tests.unit.evaluate import generate
from tests.unit.evaluate.generate import Case

QUICK_CASES = 2000
SLOW_EVERY = 8  # pycocotools is also an engine of ours, but the same code as what it is held to
PARTS = 8
CASES = int(os.environ.get("DETECTOR_FUZZ_CASES", QUICK_CASES))


def truth_of(case: Case) -> Objects:
    image_ids = sorted(image["id"] for image in case.tree["images"])
    category_ids = sorted(category["id"] for category in case.tree["categories"])
    annotations = case.tree["annotations"]
    return Objects(
        num_images=len(image_ids),
        num_classes=len(category_ids),
        image_rows=np.searchsorted(image_ids, np.array([one["image_id"] for one in annotations], np.int64)),
        class_rows=np.searchsorted(category_ids, np.array([one["category_id"] for one in annotations], np.int64)),
        boxes_xywh=np.array([one["bbox"] for one in annotations], np.float64).reshape(-1, 4),
        areas=np.array([one["area"] for one in annotations], np.float64),
        is_crowd=np.array([one["iscrowd"] for one in annotations], np.bool_),
    )


def results_of(case: Case, *, by_row: bool) -> Results:
    images = np.array([one["image_id"] for one in case.found], np.int64)
    categories = np.array([one["category_id"] for one in case.found], np.int64)
    if by_row:
        images = np.searchsorted(sorted(image["id"] for image in case.tree["images"]), images)
        categories = np.searchsorted(sorted(category["id"] for category in case.tree["categories"]), categories)
    return Results(
        image_ids=images,
        category_ids=categories,
        boxes_xywh=np.array([one["bbox"] for one in case.found], np.float64).reshape(-1, 4),
        scores=np.array([one["score"] for one in case.found], np.float64),
    )


def by_hand(case: Case) -> COCOeval:
    """As pycocotools' documentation has it, with the ids of the files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(case.tree))
        truth.createIndex()
        if case.found:
            found = truth.loadRes(json.loads(json.dumps(case.found)))
        else:  # loadRes fails on an empty list
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.fuzz
@pytest.mark.parametrize("part", range(PARTS))
def test_both_engines_give_the_arrays_of_pycocotools(part: int) -> None:
    for seed in range(part, CASES, PARTS):
        case = generate.case(seed)
        expected = by_hand(case)
        for engine in engines.ENGINES if seed // PARTS % SLOW_EVERY == 0 else engines.ENGINES[:1]:
            made = engines.curves(engine, truth_of(case), results_of(case, by_row=True))
            for name in ("precision", "recall"):
                wanted = expected.eval[name]
                got = getattr(made, name)
                assert got.shape == wanted.shape
                assert np.abs(got - wanted).max() <= 1e-12, f"{engine}, case {seed}: {name}"
            assert made.twelve() == pytest.approx(expected.stats.tolist(), abs=1e-12), f"{engine}, case {seed}"


@pytest.mark.parametrize("seed", range(20))
def test_scores_of_files_are_equal(tmp_path: Path, seed: int) -> None:
    case = generate.case(seed)
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(case.tree))
    found.write_text(json.dumps(case.found))
    by_engine = [
        score(truth, results, engine=e) for e in engines.ENGINES for results in (found, results_of(case, by_row=False))
    ]
    assert all(one == by_engine[0] for one in by_engine)
    assert by_engine[0].twelve() == pytest.approx(by_hand(case).stats.tolist(), abs=1e-12)


def test_the_generator_makes_what_it_promises() -> None:
    cases = [generate.case(seed) for seed in range(400)]
    objects = [one for case in cases for one in case.tree["annotations"]]
    ids = [image["id"] for case in cases for image in case.tree["images"]]
    counts = [
        sum(d["image_id"] == i["id"] and d["category_id"] == c["id"] for d in case.found)
        for case in cases[:100]
        for i in case.tree["images"]
        for c in case.tree["categories"]
    ]
    assert sum(one["iscrowd"] for one in objects) > 100
    assert sum(one["area"] in (1024.0, 9216.0) for one in objects) > 20
    assert sum(one["area"] > 1e10 for one in objects) > 20
    assert sum(one["area"] != one["bbox"][2] * one["bbox"][3] for one in objects) > 100
    assert 0 in ids
    assert max(ids) > 2**50
    assert max(counts) > 100
    assert any(not case.found for case in cases)
    assert any(not case.tree["annotations"] for case in cases)
    assert any({o["image_id"] for o in c.tree["annotations"]} < {i["id"] for i in c.tree["images"]} for c in cases)
    assert any(
        {o["category_id"] for o in c.tree["annotations"]} < {i["id"] for i in c.tree["categories"]} for c in cases
    )
    assert sum(len(case.found) - len({d["score"] for d in case.found}) for case in cases) > 1000


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_nothing_is_printed_and_nothing_is_changed(engine: engines.Engine, capfd: pytest.CaptureFixture[str]) -> None:
    case = generate.case(3)
    truth, found = truth_of(case), results_of(case, by_row=True)
    columns = [getattr(truth, name) for name in ("image_rows", "class_rows", "boxes_xywh", "areas", "is_crowd")]
    columns += [found.image_ids, found.category_ids, found.boxes_xywh, found.scores]
    for column in columns:
        column.flags.writeable = False
    before = [column.tobytes() for column in columns]
    engines.curves(engine, truth, found)
    assert [column.tobytes() for column in columns] == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_annotation_id_0_can_be_found(tmp_path: Path, engine: engines.Engine) -> None:
    # pycocotools on the file itself scores a perfect detection of it 0.
    one = {"id": 0, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}
    tree = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": [one]}
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(tree))
    found.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}]))
    scores = score(truth, found, engine=engine)
    assert scores.ap == pytest.approx(1)
    assert "id 0" in scores.notes[0]
