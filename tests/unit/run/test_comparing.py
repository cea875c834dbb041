"""Two results files side by side, and what is known of the data of two models."""

import json
from pathlib import Path

import pytest

from detector import cli
from detector.run import comparing

KNOWN = {"val": {"annotations": "/data/val.json", "sha256": "a" * 64}}


VAL = "/data/val.json aaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("a", "b", "changes"),
    [
        (KNOWN, KNOWN, ()),
        (KNOWN, {}, (("val", VAL, "unknown"),)),
        ({}, KNOWN, (("val", "unknown", VAL),)),
        ({}, {}, (("all splits", "unknown", "unknown"),)),
        (KNOWN, {"train": KNOWN["val"]}, (("train", "none", VAL), ("val", VAL, "none"))),
    ],
)
def test_what_is_not_known_is_not_different(
    a: dict[str, dict[str, str]], b: dict[str, dict[str, str]], changes: tuple[tuple[str, str, str], ...]
) -> None:
    assert comparing.data_changes(a, b) == changes


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Ground truth, and a worse and a better file of results; the better one names its images."""
    rows = range(12)
    box = [9, 9, 40, 40]
    images = [{"id": 10 + k, "file_name": f"{k}.jpg", "width": 99, "height": 99} for k in rows]
    objects = [{"id": k + 1, "image_id": 10 + k, "category_id": 7, "bbox": box, "area": 1600} for k in rows]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 7, "name": "cell"}]}
    found = [{"image_id": 10 + k, "category_id": 7, "bbox": box, "score": 0.9 - k / 100} for k in rows]
    worse = [{**one, "bbox": [9 + k % 3 * 4, *box[1:]]} for k, one in enumerate(found)]
    better = [{**one, "file_name": f"{k}.jpg", "image_id": k} for k, one in enumerate(found)]
    made: list[Path] = []
    for name, content in (("gt", truth), ("a", worse), ("b", better)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        made.append(path)
    return made[0], made[1], made[2]


def test_results_files_are_compared_as_models_are(
    files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    truth, a, b = map(str, files)
    assert cli.main(["compare", a, b, "--ground-truth", truth, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    ap = answer["differences"]["ap"]
    assert ap["verdict"] == "B is better"
    assert 0 < ap["interval"][0] < ap["value"]
    assert (answer["settings"], answer["data"]) == (None, None)
    assert cli.main(["compare", b, a, "--ground-truth", truth]) == 0
    said = capsys.readouterr().out
    assert "A is better" in said
    assert "settings" not in said
    assert "matched by file name" in said
    cli.main(["compare", a, a, "--ground-truth", truth, "--json"])
    assert json.loads(capsys.readouterr().out)["differences"]["ap"]["interval"] == [0, 0]


def test_results_without_a_detection_make_fewer_wrong_boxes(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, a, _ = map(str, files)
    found = json.loads(Path(a).read_text())
    wrong = [{**one, "bbox": [60 + place, 70, 20, 20], "score": 0.95} for one in found for place in (0, 5)]
    spoilt, nothing = tmp_path / "spoilt.json", tmp_path / "nothing.json"
    spoilt.write_text(json.dumps(found + wrong))
    nothing.write_text("[]")
    assert cli.main(["compare", str(spoilt), str(nothing), "--ground-truth", truth]) == 0
    said = capsys.readouterr().out
    assert "A is better" in said
    assert "A 12 right, 24 wrong, 0 missed; B 0 right, 0 wrong, 12 missed" in said
    assert "images in which B has fewer wrong and missed boxes than A: 12, more: 0" in said
    assert f"note: {nothing}: there are no detections, so all scores are 0" in said
    assert f"note: {spoilt}" not in said


def test_a_truth_without_objects_says_so(
    files: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps(json.loads(files[0].read_text()) | {"annotations": []}))
    assert cli.main(["compare", str(files[1]), str(files[1]), "--ground-truth", str(empty)]) == 0
    said = capsys.readouterr().out
    assert "AP    not defined\n" in said
    assert "by class" not in said
    assert "the ground truth has no object, so no score is defined; check" in said


def test_what_does_not_go_with_results_is_refused(
    files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    truth, a, b = map(str, files)
    assert cli.main(["compare", a, b]) == 2
    assert "compared with --ground-truth FILE" in capsys.readouterr().err
    assert cli.main(["compare", a, b, "--ground-truth", truth, "--split", "test"]) == 2
    assert "--split has no meaning beside --ground-truth" in capsys.readouterr().err
    Path(b).write_text(Path(b).read_text().replace('"category_id": 7', '"category_id": 8'))
    assert cli.main(["compare", a, b, "--ground-truth", truth]) == 3
    assert f"{b}: record 0: category_id 8 is not in" in capsys.readouterr().err
