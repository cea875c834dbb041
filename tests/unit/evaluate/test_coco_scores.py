import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.errors import DataError
from detector.evaluate.coco import Scores, score
from detector.evaluate.results import Results

Tree = dict[str, Any]


def by_hand(ground_truth: Path, results: Path, category_ids: list[int] | None = None) -> COCOeval:
    """Score as pycocotools' own documentation does."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ground_truth))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        if category_ids is not None:
            evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def box(rng: np.random.Generator) -> list[float]:
    """One in four is on a size boundary, has whole numbers or has no area."""
    kind = rng.integers(8)
    if kind == 0:
        return [float(rng.integers(0, 50)), float(rng.integers(0, 50)), 32.0, 32.0]
    if kind == 1:
        return [3.0, 4.0, float(rng.choice([0.0, 96.0])), 96.0]
    return [float(v) for v in (*rng.uniform(-5, 150, 2), *rng.uniform(1, 150, 2))]


def annotation(rng: np.random.Generator, number: int, image_id: int, category_id: int) -> Tree:
    x, y, w, h = box(rng)
    area = w * h * float(rng.choice([1.0, 0.4, 0.9]))
    crowd = int(rng.random() < 0.15)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": area,
        "iscrowd": crowd,
    }


def near(rng: np.random.Generator, of: list[float]) -> list[float]:
    moved = np.array(of) + rng.normal(0, 3, 4) * (rng.random() < 0.7)
    return [*map(float, moved[:2]), *map(float, np.maximum(moved[2:], 0))]


def make(seed: int) -> tuple[Tree, list[Tree]]:
    """A data set and detections: sparse unsorted ids, crowds, area other than w * h, empty images, ties, many boxes."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(10_000, rng.integers(1, 6), replace=False).tolist()
    category_ids = rng.choice(90, rng.integers(1, 4), replace=False).tolist()
    objects: list[Tree] = []
    found: list[Tree] = []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 7)):
            number = int(len(objects) * 3 + 5)
            objects.append(annotation(rng, number, image_id, int(rng.choice(category_ids))))
        mine = [o for o in objects if o["image_id"] == image_id]
        count = int(rng.integers(0, 12)) if rng.random() < 0.9 else 130
        for _ in range(count):
            like = mine[rng.integers(len(mine))] if mine and rng.random() < 0.7 else None
            found.append(
                {
                    "image_id": image_id,
                    "category_id": like["category_id"] if like else int(rng.choice(category_ids)),
                    "bbox": near(rng, like["bbox"]) if like else box(rng),
                    "score": round(float(rng.random()), int(rng.choice([1, 6]))),
                }
            )
    order = rng.permutation(len(found))
    tree = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 300, "height": 300} for i in image_ids],
        "annotations": objects,
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
    }
    return tree, [found[i] for i in order]


@pytest.mark.parametrize("start", range(0, 80, 10))
def test_equals_pycocotools_bit_for_bit(tmp_path: Path, start: int) -> None:
    scored = 0
    for seed in range(start, start + 10):
        tree, found = make(seed)
        truth = write(tmp_path, "truth.json", tree)
        results = write(tmp_path, "results.json", found)
        if not found:  # pycocotools cannot read an empty file
            continue
        ours = score(truth, results)
        assert ours.twelve() == tuple(by_hand(truth, results).stats.tolist())
        assert score(truth, Results.read(results)) == ours
        for entry in ours.per_class:
            alone = by_hand(truth, results, [entry.category_id]).stats
            assert (entry.ap, entry.ap50) == pytest.approx((alone[0], alone[1]), abs=1e-15)
        scored += 1
    assert scored > 5


def test_the_generator_makes_what_it_promises() -> None:
    sets = [make(seed) for seed in range(80)]
    objects = [o for tree, _ in sets for o in tree["annotations"]]
    per_class = [
        sum(d["image_id"] == i["id"] and d["category_id"] == c["id"] for d in found)
        for tree, found in sets
        for i in tree["images"]
        for c in tree["categories"]
    ]
    scores = [len(found) - len({d["score"] for d in found}) for _, found in sets]
    assert any(o["iscrowd"] for o in objects)
    assert any(o["area"] != o["bbox"][2] * o["bbox"][3] for o in objects)
    assert any({o["image_id"] for o in tree["annotations"]} < {i["id"] for i in tree["images"]} for tree, _ in sets)
    assert max(per_class) > 100
    assert sum(scores) > 100


IMAGES = [{"id": 1}, {"id": 5}]
CATEGORIES = [{"id": 3, "name": "b"}, {"id": 2, "name": "a"}]
OBJECTS = [
    {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
    {"id": 2, "image_id": 5, "category_id": 3, "bbox": [50, 50, 200, 200], "area": 40000, "iscrowd": 0},
]


def truth_file(folder: Path, **changes: object) -> Path:
    return write(folder, "truth.json", {"images": IMAGES, "annotations": OBJECTS, "categories": CATEGORIES, **changes})


def perfect(objects: list[Tree] = OBJECTS) -> Results:
    return Results(
        image_ids=np.array([o["image_id"] for o in objects], np.int64),
        category_ids=np.array([o["category_id"] for o in objects], np.int64),
        boxes_xywh=np.array([o["bbox"] for o in objects], np.float64).reshape(-1, 4),
        scores=np.linspace(1, 0.5, len(objects)),
    )


def test_the_fields_are_in_pycocotools_order(tmp_path: Path) -> None:
    tree, found = make(3)
    truth, results = write(tmp_path, "truth.json", tree), write(tmp_path, "results.json", found)
    stats = by_hand(truth, results).stats
    s = score(truth, results)
    assert (s.ap, s.ap50, s.ap75) == tuple(stats[:3])
    assert (s.ap_small, s.ap_medium, s.ap_large) == tuple(stats[3:6])
    assert (s.ar_1, s.ar_10, s.ar_100) == tuple(stats[6:9])
    assert (s.ar_small, s.ar_medium, s.ar_large) == tuple(stats[9:])


def test_perfect_detections(tmp_path: Path) -> None:
    s = score(truth_file(tmp_path), perfect())
    assert s.ap == pytest.approx(1)
    assert (s.ap_medium, s.ar_medium) == (-1, -1)
    assert [(c.name, c.category_id, c.num_objects) for c in s.per_class] == [("a", 2, 0), ("b", 3, 2)]
    assert [c.ap for c in s.per_class] == [-1, pytest.approx(1)]
    assert (s.num_images, s.num_detections, s.notes) == (2, 2, ())


def test_no_detection_scores_zero_where_there_are_objects(tmp_path: Path) -> None:
    s = score(truth_file(tmp_path), perfect([]))
    assert s.twelve() == (0, 0, 0, 0, -1, 0, 0, 0, 0, 0, -1, 0)
    assert [(c.ap, c.ap50) for c in s.per_class] == [(-1, -1), (0, 0)]


def test_an_empty_file_scores_zero(tmp_path: Path) -> None:
    assert score(truth_file(tmp_path), write(tmp_path, "results.json", [])).ap == 0


def test_a_truth_without_objects_scores_minus_one_and_says_so(tmp_path: Path) -> None:
    s = score(truth_file(tmp_path, annotations=[]), perfect())
    assert s.twelve() == (-1,) * 12
    assert s.notes == ("the ground truth has no object, so no score is defined; check that it is the right file",)


def test_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score(truth_file(tmp_path), perfect())
    assert capsys.readouterr() == ("", "")


def test_the_callers_files_and_arrays_stay_as_they_are(tmp_path: Path) -> None:
    truth, results = truth_file(tmp_path), perfect()
    before = truth.read_bytes(), results.to_coco_json()
    score(truth, results)
    assert (truth.read_bytes(), results.to_coco_json()) == before


def changed(**change: object) -> list[Tree]:
    return [OBJECTS[0] | change, OBJECTS[1]]


def without(key: str) -> list[Tree]:
    return [{k: v for k, v in OBJECTS[0].items() if k != key}, OBJECTS[1]]


def same_as_clean(folder: Path, s: Scores) -> bool:
    return s.twelve() == score(truth_file(folder), perfect()).twelve()


@pytest.mark.parametrize(
    ("objects", "note"),
    [
        (changed(id=0), "1 annotations have the id 0 or none"),
        (without("id"), "1 annotations have the id 0 or none"),
        ([{k: v for k, v in one.items() if k != "id"} for one in OBJECTS], "2 annotations have the id 0 or none"),
        ([one | {"id": 0} for one in OBJECTS], "2 annotations have the id 0 or none"),
        (changed(id=2), "1 annotations repeat the id"),
        (without("area"), "1 annotations state no area; width * height"),
        (changed(area=None), "1 annotations state no area; width * height"),
        (changed(area=-1), "1 annotations state an area below zero; width * height"),
        ([*OBJECTS, OBJECTS[0] | {"id": 9, "image_id": 99}], "1 annotations name an image that the file does not list"),
    ],
)
def test_what_pycocotools_scores_wrong_is_repaired_and_noted(tmp_path: Path, objects: list[Tree], note: str) -> None:
    s = score(truth_file(tmp_path, annotations=objects), perfect())
    assert len(s.notes) == 1
    assert s.notes[0].startswith(note)
    assert same_as_clean(tmp_path, s)


@pytest.mark.parametrize("objects", [without("iscrowd"), changed(iscrowd=False), changed(ignore=1), changed(id=-4)])
def test_what_is_allowed_needs_no_note(tmp_path: Path, objects: list[Tree]) -> None:
    s = score(truth_file(tmp_path, annotations=objects), perfect())
    assert s.notes == ()
    assert same_as_clean(tmp_path, s)


def test_categories_of_one_name_are_told_apart_by_id_with_a_word(tmp_path: Path) -> None:
    path = truth_file(tmp_path)
    tree = json.loads(path.read_text())
    for category in tree["categories"]:
        category["name"] = "same"
    s = score(write(tmp_path, "same.json", tree), perfect())
    assert s.notes == ("2 categories are named 'same'; scored as different ones, with the ids 2, 3",)
    assert same_as_clean(tmp_path, s)


def test_crowd_regions_are_no_objects(tmp_path: Path) -> None:
    s = score(truth_file(tmp_path, annotations=[*OBJECTS, OBJECTS[1] | {"id": 3, "iscrowd": 1}]), perfect())
    assert [entry.num_objects for entry in s.per_class] == [0, 2]


def test_an_area_beyond_the_range_is_ignored_with_a_note(tmp_path: Path) -> None:
    s = score(truth_file(tmp_path, annotations=[*OBJECTS, OBJECTS[0] | {"id": 3, "area": 2e10}]), perfect())
    assert s.notes == ("1 annotations have an area above 1e+10, which no score counts; ignored",)
    assert [entry.num_objects for entry in s.per_class] == [0, 2]
    assert same_as_clean(tmp_path, s)


def test_missing_area_decides_the_size_class(tmp_path: Path) -> None:
    objects = [{**OBJECTS[0], "bbox": [10, 10, 50, 50]}]
    del objects[0]["area"]
    s = score(truth_file(tmp_path, annotations=objects), perfect(objects))
    assert s.ap_small == -1
    assert s.ap_medium == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": changed(category_id=77)}, "annotation 1: category_id 77 is none of 2, 3"),
        ({"annotations": changed(bbox=[1, 2, -3, 4])}, "annotation 1: bbox .* has a negative side"),
        ({"annotations": changed(bbox=[1, 2, 3])}, "annotation 1: bbox"),
        ({"annotations": changed(area="big")}, "annotation 1: area 'big' must be a finite number"),
        ({"annotations": changed(iscrowd=2)}, "annotation 1: iscrowd"),
        ({"annotations": None}, "'annotations'"),
        ({"images": []}, "lists no image"),
        ({"categories": []}, "lists no category"),
        ({"images": [*IMAGES, {"id": 1}]}, "image id 1 stands twice"),
        ({"categories": [*CATEGORIES, {"id": 3, "name": "c"}]}, "category id 3 stands twice"),
        ({"categories": [{"id": 3}]}, "category 3: name"),
    ],
)
def test_a_bad_truth_is_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = truth_file(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        score(path, perfect())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 6}, "predictions: record 1: image_id 6 is not in .*truth.json, which has 1, 5"),
        ({"category_id": 1}, "predictions: record 1: category_id 1 is not in .*truth.json, which has 2, 3"),
        ({"bbox": [float("nan")] * 4}, "predictions: record 1: box .* is not finite"),
        ({"bbox": [0, 0, -1, 5]}, "predictions: record 1: box .* negative side"),
    ],
)
def test_a_bad_detection_is_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(truth_file(tmp_path), perfect([OBJECTS[0], OBJECTS[1] | change]))


def test_a_bad_results_file_is_named(tmp_path: Path) -> None:
    results = write(tmp_path, "results.json", [{"image_id": 6, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}])
    with pytest.raises(DataError, match=r"results.json: record 0: image_id 6"):
        score(truth_file(tmp_path), results)


def test_equal_scores_of_a_class_are_counted(tmp_path: Path) -> None:
    one = {"image_id": 1, "bbox": [0, 0, 9, 9]}
    scores = [(1, 0.5), (1, 0.5), (1, 0.5), (1, 0.7), (2, 0.7), (2, 0.9), (2, 0.9)]
    tree: Tree = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [],
    }
    truth = write(tmp_path, "truth.json", tree)
    found = write(tmp_path, "found.json", [{**one, "category_id": k, "score": value} for k, value in scores])
    assert score(truth, found).num_tied == 5
    assert score(truth, write(tmp_path, "none.json", [])).num_tied == 0
