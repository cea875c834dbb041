"""The fast reader gives what the careful one gives, or steps aside."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.data import coco, fast_tables, json_stream
from detector.data.columns import Columns
from detector.errors import DataError
from detector.evaluate.results import Results
from tests.unit.data import make

COLUMNS = ("image_ids", "name_bytes", "name_offsets", "sizes_hw", "offsets", "boxes", "labels", "is_crowd")


def careful(monkeypatch: pytest.MonkeyPatch, path: Path, images: Path) -> Columns:
    with monkeypatch.context() as patch:
        patch.setattr(fast_tables, "read", lambda _: None)
        return coco.read(path, images)


def assert_same(a: Columns, b: Columns) -> None:
    for name in COLUMNS:
        one, other = getattr(a, name), getattr(b, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert a.label_map == b.label_map
    assert a.report == b.report


text = st.text(st.sampled_from('ab}]{[",:\\ \né\u2028'), max_size=8)
number = st.floats(0, 60) | st.integers(0, 60) | st.floats(0, 1e-300)
extras = st.dictionaries(
    st.sampled_from(["segmentation", "note", "attributes"]),
    text | st.lists(st.lists(number, max_size=6), max_size=2) | st.dictionaries(text, number | text, max_size=2)
    | st.lists(st.dictionaries(text, number, max_size=2), max_size=2) | st.none() | st.booleans(),
    max_size=2,
)  # fmt: skip


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    image_ids = draw(st.lists(st.integers(-5, 2**40), min_size=1, max_size=4, unique=True))
    images = [make.image(i, f"{draw(st.sampled_from('abé'))}{k}.png") | draw(extras) for k, i in enumerate(image_ids)]
    side = st.floats(0, 50) | st.integers(0, 50)
    annotations = [
        make.annotation(
            draw(st.integers(0, 20)),
            image_id=draw(st.sampled_from(image_ids)),
            category_id=draw(st.sampled_from([3, 8])),
            bbox=[draw(side) for _ in range(4)],
            iscrowd=draw(st.integers(0, 1)),
        )
        | draw(extras)
        for _ in range(draw(st.integers(0, 6)))
    ]
    categories = [{"id": 8, "name": "x"}, {"id": 3, "name": "y"}]
    tables = {
        "images": images,
        "annotations": annotations,
        "categories": categories,
        "info": draw(extras),
        "n": draw(number),
    }
    return {key: tables[key] for key in draw(st.permutations(list(tables)))}


@given(tree=trees(), window=st.integers(1, 400), indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_what_it_reads_is_what_the_careful_reader_reads(
    tree: dict[str, Any], window: int, indent: int | None, ascii_only: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path, images = make.write(tmp_path, tree)
    path.write_text(json.dumps(tree, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    monkeypatch.setattr(json_stream, "WINDOW_BYTES", window)
    try:
        expected: Columns | str = careful(monkeypatch, path, images)
    except DataError as error:
        expected = str(error)
    try:
        found: Columns | str = coco.read(path, images)
    except DataError as error:
        found = str(error)
    if isinstance(expected, str) or isinstance(found, str):
        assert expected == found
    else:
        assert_same(expected, found)


def test_a_usual_file_is_not_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, images = make.dataset(tmp_path, 30)
    for indent in (None, 2):
        for window in (64, 1000, 2**20):
            path.write_text(json.dumps(json.loads(path.read_text()), indent=indent))
            monkeypatch.setattr(json_stream, "WINDOW_BYTES", window)
            assert fast_tables.read(path) is not None
            assert_same(coco.read(path, images), careful(monkeypatch, path, images))


@pytest.mark.parametrize("field", ['"é}]"', '"}, {"', '"},{\\"id\\": 7}]"', "{}", '{"a": 1}', "[[1, 2], [3]]", "null"])
def test_other_fields_may_hold_anything_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    path, images = make.dataset(tmp_path, 3)
    path.write_text(path.read_text().replace('"area"', f'"note": {field}, "area"'), encoding="utf-8")
    for window in (50, 2**20):
        monkeypatch.setattr(json_stream, "WINDOW_BYTES", window)
        assert_same(coco.read(path, images), careful(monkeypatch, path, images))


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "5"}, {"id": None}, {"id": 2**63}, {"image_id": 1.0}, {"category_id": True}, {"iscrowd": 2},
        {"iscrowd": None}, {"bbox": [1, 2, 3]}, {"bbox": [1, 2, 3, "4"]}, {"bbox": [1, 2, 3, 1e9]}, {"bbox": None},
        {"area": "big"}, {"bbox": [1, 2, 3, float("nan")]}, {"iscrowd": 256},
    ],
)  # fmt: skip
def test_an_annotation_to_repair_or_refuse_is_declined(tmp_path: Path, fields: dict[str, Any]) -> None:
    path, _ = make.write(tmp_path, make.tree(annotations=[make.annotation(), make.annotation(2, **fields)]))
    assert fast_tables.read(path) is None


@pytest.mark.parametrize(
    "fields", [{"width": 0}, {"width": 2**31}, {"height": 5.0}, {"file_name": " "}, {"file_name": "a\0"}, {"id": 1.5}]
)
def test_an_image_to_repair_or_refuse_is_declined(tmp_path: Path, fields: dict[str, Any]) -> None:
    path, _ = make.write(tmp_path, make.tree(images=[make.image() | fields]))
    assert fast_tables.read(path) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"categories"', '"images": [], "categories"'), ('"categories": [', '"categories": [], "x": ['),
        ('"area"', '"note": NaN, "area"'), ("{", "["), ('"area"', '"note": "\udce9", "area"'),
        ('"images"', '"pictures"'),
    ],
)  # fmt: skip
def test_a_damaged_file_is_left_to_the_careful_reader(tmp_path: Path, old: str, new: str) -> None:
    path, images = make.write(tmp_path, make.tree())
    path.write_bytes(path.read_text().replace(old, new, 1).encode("utf-8", "surrogateescape"))
    if '"x"' not in new:
        assert fast_tables.read(path) is None
    with pytest.raises(DataError):
        coco.read(path, images)


def test_every_cut_is_declined(tmp_path: Path) -> None:
    path, _ = make.dataset(tmp_path, 2)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert fast_tables.read(path) is None
    path.write_bytes(whole + b" \n")
    assert fast_tables.read(path) is not None
    path.write_bytes(whole + b"x")
    assert fast_tables.read(path) is None


def test_what_is_no_file_is_declined(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "none", tmp_path / "pipe", Path("/dev/zero")):
        assert fast_tables.read(path) is None
        assert fast_tables.read_detections(path) is None


@given(value=st.floats(-1e8, 1e8) | st.integers(-(10**8), 10**8) | st.floats(0, 1e-300), score=st.floats(0, 1))
def test_numbers_are_read_to_the_last_bit(value: float, score: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("numbers") / "r.json"
    path.write_text(json.dumps([{"image_id": 1, "category_id": 2, "bbox": [value, 0, 1, 2], "score": score}]))
    fast = fast_tables.read_detections(path)
    assert fast is not None
    assert (fast.boxes_xywh[0, 0], fast.scores[0]) == (value, score)


def test_results_are_the_same_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    rows = [{"image_id": i, "category_id": 2, "bbox": [i, 0.1, 1, 2], "score": i / 100, "x": [{}]} for i in range(99)]
    for rest in (rows, [], [{key: value for key, value in row.items() if key != "x"} for row in rows]):
        path.write_text(json.dumps(rest))
        fast = Results.read(path)
        with monkeypatch.context() as patch:
            patch.setattr(fast_tables, "read_detections", lambda _: None)
            slow = Results.read(path)
        for name in ("image_ids", "category_ids", "boxes_xywh", "scores"):
            assert getattr(fast, name).dtype == getattr(slow, name).dtype
            np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
