from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.data import check, coco
from detector.data.columns import Columns
from detector.errors import DataError
from detector.types import LabelMap
from tests.unit.data import make


def _read(folder: Path, label_map: LabelMap | None = None, **tables: Any) -> Columns:
    return coco.read(*make.write(folder, make.tree(**tables)), label_map=label_map)


def _fails(folder: Path, **tables: Any) -> str:
    with pytest.raises(DataError) as caught:
        _read(folder, **tables)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def _findings(columns: Columns) -> list[str]:
    return [finding.what for finding in columns.report.findings]


# The whole file


@pytest.mark.parametrize("content", [[], [1], "text", 3, None])
def test_the_top_level_must_be_an_object(tmp_path: Path, content: Any) -> None:
    with pytest.raises(DataError, match="top level"):
        coco.read_json(make.write(tmp_path, content)[0])


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", ["absent", None, {}, "x", [1], [None]])
def test_each_table_must_be_a_list_of_records(tmp_path: Path, key: str, value: Any) -> None:
    tree = make.tree()
    if value == "absent":
        del tree[key]
    else:
        tree[key] = value
    with pytest.raises(DataError, match=repr(key)):
        coco.read(*make.write(tmp_path, tree))


def test_rows_hold_their_objects_in_file_order(tmp_path: Path) -> None:
    images = [make.image(7, "a.png"), make.image(-3, "sub/b.png"), make.image(2**40, "c.png")]
    annotations = [
        make.annotation(1, image_id=2**40, bbox=[1, 2, 3, 4], category_id=90),
        make.annotation(2, image_id=7, bbox=[2, 2, 3, 4], category_id=5),
        make.annotation(3, image_id=2**40, bbox=[3.5, 2, 3, 4], category_id=5, iscrowd=1),
    ]
    categories = [{"id": 90, "name": "zebra"}, {"id": 5, "name": "ant"}]
    columns = _read(tmp_path, images=images, annotations=annotations, categories=categories)
    assert columns.label_map == LabelMap(names=("ant", "zebra"), category_ids=(5, 90))
    assert columns.image_ids.tolist() == [7, -3, 2**40]
    assert [columns.file_name(i) for i in range(3)] == ["a.png", "sub/b.png", "c.png"]
    assert columns.path(1) == tmp_path / "images/sub/b.png"
    assert columns.offsets.tolist() == [0, 1, 1, 3]
    assert columns.boxes[columns.objects(2)].tolist() == [[1, 2, 4, 6], [3.5, 2, 6.5, 6]]
    assert columns.labels.tolist() == [0, 1, 0]
    assert columns.is_crowd.tolist() == [False, False, True]
    assert columns.sizes_hw.tolist() == [[40, 60]] * 3
    assert (columns.report.objects, columns.report.crowd, columns.report.background) == (2, 1, 1)
    assert columns.report.missing_files == 2


def test_types_are_those_the_loader_shares(tmp_path: Path) -> None:
    columns = _read(tmp_path)
    kinds = {
        name: getattr(columns, name).dtype.name for name in ("image_ids", "sizes_hw", "offsets", "boxes", "labels")
    }
    assert kinds == {
        "image_ids": "int64", "sizes_hw": "int32", "offsets": "int64", "boxes": "float32", "labels": "int64",
    }  # fmt: skip


def test_the_input_is_not_changed(tmp_path: Path) -> None:
    path, images = make.write(tmp_path, make.tree())
    before = path.read_bytes()
    coco.read(path, images)
    assert path.read_bytes() == before


# Images


def test_no_images_is_an_error(tmp_path: Path) -> None:
    assert "no images" in _fails(tmp_path, images=[], annotations=[])


@pytest.mark.parametrize("image_id", [None, True, 1.5, "x", "", [], 2**63])
def test_an_image_id_must_be_a_whole_number(tmp_path: Path, image_id: Any) -> None:
    assert "id" in _fails(tmp_path, images=[make.image(image_id)], annotations=[])


@pytest.mark.parametrize("image_id", ["1", 1.0, "1.0"])
def test_an_image_id_of_another_kind_is_repaired_and_counted(tmp_path: Path, image_id: Any) -> None:
    columns = _read(tmp_path, images=[make.image(image_id)])
    assert columns.image_ids.tolist() == [1]
    assert _findings(columns) == ["image ids were not written as whole numbers"]


@pytest.mark.parametrize("ids", [(1, 1), (1, "1"), (1, 1.0)])
def test_duplicate_image_ids_are_named(tmp_path: Path, ids: tuple[Any, Any]) -> None:
    message = _fails(tmp_path, images=[make.image(ids[0]), make.image(ids[1], "b.png")])
    assert "image id 1 stands twice, at positions 0 and 1" in message


def test_a_repeated_file_name_is_told(tmp_path: Path) -> None:
    columns = _read(tmp_path, images=[make.image(1), make.image(2)])
    assert _findings(columns) == ["file names stand more than once"]
    (finding,) = columns.report.findings
    assert str(finding) == f"file names stand more than once: 1 ({columns.file_name(0)!r})"


@pytest.mark.parametrize(
    "name",
    [None, "", "  ", 5, "/etc/a.png", "C:/a.png", "C:\\a.png", "../a.png", "b/../../a.png", "..\\a.png",
     "http://x.org/a.png", "file:///a.png", "a\0.png", "\ud800.png", "\\\\server\\a.png",
     "/dev/zero", "/proc/self/environ", "a/..", ".."],
)  # fmt: skip
def test_a_file_name_must_stay_inside_the_folder(tmp_path: Path, name: Any) -> None:
    message = _fails(tmp_path, images=[make.image(4, name)], annotations=[])
    assert "image 4" in message
    assert "file_name" in message


def test_no_name_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.picture(tmp_path / "home/b.png")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = ["~/b.png", "$HOME/b.png", "a.pn[g]", "*.png"]
    images = [make.image(1), *(make.image(k + 2, name) for k, name in enumerate(names))]
    assert _read(tmp_path, images=images).report.missing_files == len(names)


def test_names_that_only_look_bad_are_fine(tmp_path: Path) -> None:
    names = ["a..b.png", "c/..d.png", "<script>.png", "é 日本.png", "xx:y.png", "http.png"]
    images = [make.image(1), *(make.image(i + 2, name) for i, name in enumerate(names))]
    columns = _read(tmp_path, images=images)
    assert [columns.file_name(i + 1) for i in range(len(names))] == names


def test_backslashes_become_slashes(tmp_path: Path) -> None:
    make.picture(tmp_path / "images/b/c.png")
    columns = _read(tmp_path, images=[make.image(1, "b\\c.png")])
    assert columns.file_name(0) == "b/c.png"
    assert columns.report.missing_files == 0
    assert _findings(columns) == ["file names had backslashes, read as slashes"]


@pytest.mark.parametrize("size", [{}, {"width": None, "height": None}, {"width": 0, "height": 40}, {"width": 60}])
def test_a_missing_size_comes_from_the_image(tmp_path: Path, size: dict[str, Any]) -> None:
    columns = _read(tmp_path, images=[{"id": 1, "file_name": "a.png", **size}])
    assert columns.sizes_hw.tolist() == [[40, 60]]
    assert _findings(columns) == ["sizes were missing and taken from the image files"]


def test_a_size_that_nothing_tells_is_an_error(tmp_path: Path) -> None:
    assert "no such file" in _fails(tmp_path, images=[{"id": 1, "file_name": "none.png"}])


@pytest.mark.parametrize("size", [("60", "40"), (60.0, 40.0), ("60.0", 40)])
def test_a_size_of_another_kind_is_repaired(tmp_path: Path, size: tuple[Any, Any]) -> None:
    columns = _read(tmp_path, images=[{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}])
    assert columns.sizes_hw.tolist() == [[40, 60]]
    assert _findings(columns) == ["sizes were not written as whole numbers"]


@pytest.mark.parametrize("side", ["wide", 60.5, True, [], 2**31, 10**400])
def test_a_nonsense_size_is_an_error(tmp_path: Path, side: Any) -> None:
    assert "width and height" in _fails(tmp_path, images=[{"id": 1, "file_name": "a.png", "width": side, "height": 40}])


def test_all_files_missing_points_to_the_option(tmp_path: Path) -> None:
    assert "--images" in _fails(tmp_path, images=[make.image(1, "none.png"), make.image(2, "no/ne.png")])
    path, _ = make.write(tmp_path, make.tree())
    with pytest.raises(DataError, match="--images"):
        coco.read(path, tmp_path / "nowhere")


def test_some_files_missing_are_counted(tmp_path: Path) -> None:
    columns = _read(tmp_path, images=[make.image(1), make.image(2, "b.png"), make.image(3, "c/d.png")])
    assert check.missing_files(columns) == (1, 2)
    assert columns.report.missing_files == 2
    assert str(columns.report.findings[-1]) == "image files are missing: 2 ('b.png', 'c/d.png')"


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = make.picture(tmp_path / "elsewhere/s.png")
    make.picture(tmp_path / "data/images/a.png")
    (tmp_path / "data/images/link.png").symlink_to(secret)
    (tmp_path / "data/images/sub").symlink_to(tmp_path / "elsewhere")
    for name in ("link.png", "sub/s.png"):
        assert "link out of" in _fails(tmp_path / "data", images=[make.image(1, name)])


def test_links_inside_the_folder_and_to_the_folder_are_fine(tmp_path: Path) -> None:
    make.picture(tmp_path / "real/b.png")
    (tmp_path / "real/a.png").symlink_to("b.png")
    (tmp_path / "images").symlink_to("real")
    assert _read(tmp_path).report.missing_files == 0


# Categories


@pytest.mark.parametrize(
    ("categories", "says"),
    [
        ([], "no categories"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "category id 1 stands twice"),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "category name 'a' stands twice"),
        ([{"id": 1, "name": ""}], "name"),
        ([{"id": 1, "name": None}], "name"),
        ([{"id": 1}], "name"),
        ([{"name": "a"}], "id"),
    ],
)
def test_faulty_categories(tmp_path: Path, categories: list[Any], says: str) -> None:
    assert says in _fails(tmp_path, categories=categories)


def test_classes_are_aligned_by_name_to_those_of_training(tmp_path: Path) -> None:
    train = LabelMap(names=("dog", "cat"), category_ids=(3, 8))
    columns = _read(
        tmp_path,
        label_map=train,
        categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        annotations=[make.annotation(1, category_id=1), make.annotation(2, category_id=2)],
    )
    assert columns.label_map == LabelMap(names=("dog", "cat"), category_ids=(2, 1))
    assert columns.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("trained", "here", "says"),
    [
        (("cow", "dog"), ("cat",), "only here: 'cat'; only in training: 'cow', 'dog'"),
        (("cat", "dog"), ("cat",), "only here: none; only in training: 'dog'"),
        (("cat",), ("cat", "dog"), "only here: 'dog'; only in training: none"),
    ],
)
def test_other_classes_than_in_training_are_shown_from_both_sides(
    tmp_path: Path, trained: tuple[str, ...], here: tuple[str, ...], says: str
) -> None:
    label_map = LabelMap(names=trained, category_ids=tuple(range(len(trained))))
    with pytest.raises(DataError, match=says):
        _read(tmp_path, label_map=label_map, categories=[{"id": i + 1, "name": name} for i, name in enumerate(here)])


def test_a_class_without_objects_is_told(tmp_path: Path) -> None:
    columns = _read(tmp_path, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}])
    assert [str(finding) for finding in columns.report.findings] == ["classes without any object: 1 (dog)"]


# Annotations


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"bbox": None}, "bbox"),
        ({"bbox": []}, "bbox"),
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"bbox": [1, 2, 3, 4, 5]}, "bbox"),
        ({"bbox": {"x": 1}}, "bbox"),
        ({"bbox": [1, 2, 3, None]}, "bbox"),
        ({"bbox": [1, 2, 3, True]}, "bbox"),
        ({"bbox": [1, 2, 3, "wide"]}, "'wide'"),
        ({"bbox": ["nan", 2, 3, 4]}, "not finite"),
        ({"bbox": [1, 2, 3, "inf"]}, "not finite"),
        ({"bbox": [1, 2, 1e30, 4]}, "absurdly large"),
        ({"bbox": [10**400, 2, 3, 4]}, "not finite"),
        ({"bbox": [5, 5, -3, 4]}, "x1, y1, x2, y2"),
        ({"iscrowd": 2}, "iscrowd"),
        ({"iscrowd": "no"}, "iscrowd"),
        ({"iscrowd": []}, "iscrowd"),
        ({"image_id": 5}, "image_id 5 is unknown; known: 1"),
        ({"image_id": None}, "image_id"),
        ({"category_id": 0}, "category_id 0 is unknown; known: 1"),
        ({"category_id": None}, "category_id"),
        ({"category_id": 1.5}, "category_id"),
    ],
)
def test_a_faulty_annotation_is_named(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    message = _fails(tmp_path, annotations=[make.annotation(1), make.annotation(42, **fields)])
    assert "annotation 42" in message
    assert says in message


def test_an_annotation_without_id_is_named_by_position(tmp_path: Path) -> None:
    annotations = [make.annotation(1), {"image_id": 1, "category_id": 1}]
    assert "annotation at position 1" in _fails(tmp_path, annotations=annotations)


def test_nan_in_a_box_is_refused_while_parsing(tmp_path: Path) -> None:
    bad = make.annotation(42, bbox=[1, 2, float("nan"), 3])
    said = "annotation 42: bbox [1, 2, NaN, 3] is not finite; correct or remove the record"
    assert said in _fails(tmp_path, annotations=[make.annotation(1), bad])
    del bad["id"]
    assert "annotation at position 1: bbox" in _fails(tmp_path, annotations=[make.annotation(1), bad])
    bad = make.annotation(7, note={"by": [float("inf")]})
    assert "annotation 7: note {'by': [Infinity]} is not finite" in _fails(tmp_path, annotations=[bad])


def test_nan_beside_the_records_is_refused_as_well(tmp_path: Path) -> None:
    path, images = make.write(tmp_path, make.tree() | {"info": float("nan")})
    with pytest.raises(DataError, match="holds the number NaN, which is not finite"):
        coco.read(path, images)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"bbox": ["5", "6", "20", "1e1"]}, "boxes had numbers written as text"),
        ({"category_id": "1"}, "category_ids were not written as whole numbers"),
        ({"image_id": 1.0}, "image_ids were not written as whole numbers"),
        ({"iscrowd": False}, "crowd flags were not written as 0 or 1"),
        ({"iscrowd": None}, "crowd flags were not written as 0 or 1"),
    ],
)
def test_a_repair_gives_what_the_right_file_gives(tmp_path: Path, fields: dict[str, Any], what: str) -> None:
    columns = _read(tmp_path, annotations=[make.annotation(9, **fields)])
    assert columns.boxes.tolist() == [[5, 6, 25, 16]]
    assert columns.is_crowd.tolist() == [False]
    assert [str(finding) for finding in columns.report.findings] == [f"{what}: 1 (annotation 9)"]


def test_area_and_iscrowd_may_be_missing(tmp_path: Path) -> None:
    columns = _read(tmp_path, annotations=[{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 10]}])
    assert columns.report.objects == 1
    assert not columns.report.findings


@pytest.mark.parametrize(
    ("bbox", "kept", "count"),
    [
        ([5, 5, 0, 0], None, "dropped_no_area"),
        ([5, 5, 0, 9], None, "dropped_no_area"),
        ([60, 5, 9, 9], None, "dropped_outside"),
        ([-9, 5, 9, 9], None, "dropped_outside"),
        ([5, 500, 9, 9], None, "dropped_outside"),
        ([5, 5, 0.5, 9], None, "dropped_tiny"),
        ([59.5, 5, 9, 9], None, "dropped_tiny"),
        ([-4, -4, 10, 10], [0, 0, 6, 6], "clipped"),
        ([50, 30, 20, 20], [50, 30, 60, 40], "clipped"),
        ([50, 30, 11, 10], [50, 30, 60, 40], None),
        ([-1, 0, 61, 40], [0, 0, 60, 40], None),
        ([0, 0, 60, 40], [0, 0, 60, 40], None),
    ],
)
def test_boxes_at_the_edge(tmp_path: Path, bbox: list[float], kept: list[float] | None, count: str | None) -> None:
    plain = [make.annotation(i, bbox=[10, 10, 8, 8]) for i in range(2, 9)]
    columns = _read(tmp_path, annotations=[make.annotation(1, bbox=bbox), *plain])
    assert columns.boxes[:-7].tolist() == ([kept] if kept else [])
    counts = ("dropped_no_area", "dropped_outside", "dropped_tiny", "clipped")
    assert {name: getattr(columns.report, name) for name in counts} == {name: int(name == count) for name in counts}


def test_boxes_that_are_corners_are_recognised(tmp_path: Path) -> None:
    corners = [make.annotation(i, bbox=[30 + i, 20, 50 + i, 35]) for i in range(5)]
    assert "x1, y1, x2, y2" in _fails(tmp_path, annotations=corners)


def test_boxes_that_are_normalised_are_recognised(tmp_path: Path) -> None:
    assert "normalised" in _fails(tmp_path, annotations=[make.annotation(1, bbox=[0.1, 0.2, 0.5, 0.5])])


sides = st.one_of(st.integers(-30, 90), st.floats(-30, 90, width=32))
lengths = st.one_of(st.just(0), st.floats(0, 3), st.integers(0, 90))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boxes=st.lists(st.tuples(sides, sides, lengths, lengths, st.integers(0, 1), st.integers(1, 3)), max_size=12))
def test_every_annotation_is_accounted_for(tmp_path: Path, boxes: list[tuple[Any, ...]]) -> None:
    plain = make.annotation(0, bbox=[30, 20, 8, 8])  # no corners, not normalised: no heuristic of the file fires
    annotations = [make.annotation(i + 1, bbox=box[:4], iscrowd=box[4], image_id=box[5]) for i, box in enumerate(boxes)]
    images = [make.image(i, name) for i, name in ((3, "a.png"), (1, "b.png"), (2, "c.png"))]
    columns = _read(tmp_path, images=images, annotations=[*annotations, plain, {**plain, "image_id": 3}])
    report = columns.report
    assert report.listed == len(boxes) + 2 == report.objects + report.crowd + report.dropped
    assert len(columns.labels) == report.objects + report.crowd == columns.offsets[-1]
    assert report.crowd == columns.is_crowd.sum()
    assert (np.diff(columns.offsets) >= 0).all()
    assert (columns.boxes[:, 2:] - columns.boxes[:, :2] >= 1 - 1e-5).all()  # corners are rounded to float32
    assert (columns.boxes >= 0).all()
    assert (columns.boxes <= [60, 40, 60, 40]).all()


def test_the_log_is_short_sentences(tmp_path: Path) -> None:
    annotations = [make.annotation(i, bbox=[1, 1, 0, 0]) for i in range(30)]
    lines = list(_read(tmp_path, annotations=[*annotations, make.annotation(99)]).report.lines())
    assert lines[0] == "1 images (0 without objects), 1 objects, 0 crowd regions"
    assert lines[1].startswith("boxes have no area, dropped: 30 (annotation 0, annotation 1,")
    assert lines[1].endswith("annotation 9, ...)")
    assert len(lines) == 2


def test_training_needs_objects(tmp_path: Path) -> None:
    check.require_objects(_read(tmp_path))
    for annotations in ([], [make.annotation(1, iscrowd=1)], [make.annotation(1, bbox=[1, 1, 0, 0])]):
        with pytest.raises(DataError, match="no object to train on"):
            check.require_objects(_read(tmp_path, annotations=annotations))


def test_the_blood_cells_are_read() -> None:
    folder = Path(__file__).parents[3] / "data/blood-cells"
    found = {}
    for split in ("train", "val", "test"):
        report = coco.read(folder / f"{split}.json", folder / "images").report
        found[split] = (report.images, report.listed, report.dropped_no_area, len(report.findings))
    assert found == {"train": (205, 2805, 1, 1), "val": (87, 1138, 1, 1), "test": (72, 945, 0, 0)}
