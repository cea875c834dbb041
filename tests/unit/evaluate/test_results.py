import json
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import DataError
from detector.evaluate.results import Results, check_values

GOOD = {"image_id": 7, "category_id": 3, "bbox": [1.5, 2, 30, 40.25], "score": 0.5}


def results(boxes: list[list[float]], scores: list[float]) -> Results:
    count = len(scores)
    return Results(
        image_ids=np.arange(count, dtype=np.int64),
        category_ids=np.ones(count, dtype=np.int64),
        boxes_xywh=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        scores=np.array(scores, dtype=np.float64),
    )


def write_text(folder: Path, text: str) -> Path:
    path = folder / "predictions.json"
    path.write_text(text, encoding="utf-8")
    return path


coordinate = st.floats(-1e6, 1e6)
side = st.floats(0, 1e6)
row = st.tuples(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.tuples(coordinate, coordinate, side, side),
    st.floats(0, 1) | st.floats(0, 1, width=32),
)


@given(rows=st.lists(row, max_size=8))
def test_write_then_read_gives_exactly_the_same_numbers(
    rows: list[tuple[int, int, tuple[float, ...], float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("results") / "predictions.json"
    written = Results(
        image_ids=np.array([r[0] for r in rows], dtype=np.int64),
        category_ids=np.array([r[1] for r in rows], dtype=np.int64),
        boxes_xywh=np.array([r[2] for r in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([r[3] for r in rows], dtype=np.float64),
    )
    written.write(path)
    read = Results.read(path)
    for name in ("image_ids", "category_ids", "boxes_xywh", "scores"):
        a, b = getattr(written, name), getattr(read, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_file_is_coco_json(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    results([[1, 2, 3, 4]], [0.25]).write(path)
    assert json.loads(path.read_text()) == [{"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.25}]


def test_writing_leaves_no_other_file_and_one_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    results([[1, 2, 3, 4]], [0.25]).write(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.json"]
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_a_failed_write_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    results([[1, 2, 3, 4]], [0.25]).write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        results([[1, 2, 3, float("nan")]], [0.5]).write(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.json"]


def test_a_write_that_fails_late_leaves_no_half_file(tmp_path: Path) -> None:
    taken = tmp_path / "predictions.json"
    taken.mkdir()
    with pytest.raises(OSError, match="directory"):
        results([[1, 2, 3, 4]], [0.25]).write(taken)
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.json"]


def test_unequal_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="columns of 2 detections"):
        results([[1, 2, 3, 4]], [0.5, 0.5])


@pytest.mark.parametrize("text", ["[]", " [ ]\n", "﻿[]"])
def test_no_detection_is_a_valid_file(tmp_path: Path, text: str) -> None:
    assert len(Results.read(write_text(tmp_path, text))) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, -3, 4]}, r"record 1: box \[1.0, 2.0, -3.0, 4.0\] has a negative side; write \[x, y, width"),
        ({"bbox": [1, 2, 3, -0.5]}, r"record 1: box .*-0.5\] has a negative side"),
        ({"score": 1.5}, r"record 1: score 1.5 is not between 0 and 1"),
        ({"score": -0.001}, r"record 1: score -0.001 is not between 0 and 1"),
        ({"score": "0.5"}, r"record 1: score '0.5' must be a number"),
        ({"score": None}, r"record 1: score None must be a number"),
        ({"score": True}, r"record 1: score True must be a number"),
        ({"bbox": [1, 2, 3]}, r"record 1: bbox \[1, 2, 3\] must be four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, r"record 1: bbox .* must be four numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, r"record 1: bbox .* must be four numbers"),
        ({"bbox": None}, r"record 1: bbox None must be four numbers"),
        ({"image_id": "7"}, r"record 1: image_id '7' must be a whole number"),
        ({"image_id": True}, r"record 1: image_id True must be a whole number"),
        ({"image_id": 2**63}, r"record 1: image_id 9223372036854775808 must be a whole number"),
        ({"category_id": 1.5}, r"record 1: category_id 1.5 must be a whole number"),
    ],
)
def test_a_bad_value_names_record_and_cure(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_text(tmp_path, json.dumps([GOOD, GOOD | change, GOOD]))
    with pytest.raises(DataError, match=message) as caught:
        Results.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    record = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(DataError, match=f"record 0: lacks {key};"):
        Results.read(write_text(tmp_path, json.dumps([record])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": []}', "is an object, but a results file is a list"),
        ("null", "is null, but a results file is a list"),
        ('"x"', "is the str 'x', but a results file is a list"),
        ("[[1, 2]]", "record 0: is a list, must be an object"),
        ("[", "ends in the middle"),
        ("", "is empty"),
        (json.dumps([GOOD, GOOD | {"score": float("nan")}]), "record 1: score NaN is not finite; correct or remove"),
        (
            json.dumps([GOOD | {"bbox": [0, 0, float("-inf"), 1]}]),
            r"record 0: bbox \[0, 0, -Infinity, 1\] is not finite",
        ),
        (json.dumps([GOOD, 3, GOOD]).replace("0.5", "-1e400"), "record 0: score -1e400 is not finite"),
        (json.dumps([GOOD, GOOD | {"x": {"y": [float("nan")]}}]), r"record 1: x \{'y': \[NaN\]\} is not finite"),
        ('{"images": [NaN]}', "holds the number NaN, which is not finite"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Results.read(write_text(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        Results.read(tmp_path / "none.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", range(4))
def test_a_box_that_is_not_finite_is_refused(value: float, place: int) -> None:
    box = [1.0, 2.0, 3.0, 4.0]
    box[place] = value
    with pytest.raises(DataError, match=r"mine: record 1: box .* is not finite"):
        check_values(results([[1, 2, 3, 4], box], [0.5, 0.5]), source="mine")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(DataError, match=r"mine: record 0: score .* is not finite"):
        check_values(results([[1, 2, 3, 4]], [value]), source="mine")


def test_the_edges_of_what_is_allowed() -> None:
    check_values(results([[-5, -5, 0, 0], [0, 0, 1e9, 1]], [0.0, 1.0]), source="mine")
