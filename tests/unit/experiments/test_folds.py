"""Cross-validation: every image is held out once."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.experiments import script

folds, kept = script.load("folds"), script.load("kept")


def test_every_image_is_in_one_part() -> None:
    for count, number in ((10, 5), (200, 5), (7, 3)):
        found = folds.parts(count, number)
        assert sorted(image for part in found for image in part) == list(range(1, count + 1))
        assert max(map(len, found)) - min(map(len, found)) <= 1
        assert found == folds.parts(count, number)


def test_nothing_that_is_held_out_is_learned_from() -> None:
    images = [{"id": k} for k in range(1, 11)]
    boxes = [{"id": k, "image_id": (k - 1) % 10 + 1} for k in range(1, 31)]
    whole = {"images": images, "annotations": boxes, "categories": [{"id": 1}]}
    for held in folds.parts(10, 5):
        learned, tested = folds.dealt(whole, held)
        assert {image["id"] for image in tested["images"]} == held
        assert {image["id"] for image in learned["images"]} == set(range(1, 11)) - held
        for part in (learned, tested):
            ids = {image["id"] for image in part["images"]}
            assert {one["image_id"] for one in part["annotations"]} == ids
            assert part["categories"] == whole["categories"]
        assert len(learned["annotations"]) + len(tested["annotations"]) == 30


def test_parts_are_dealt_at_random() -> None:
    """Files of one kind often stand together."""
    assert all(max(part) - min(part) > 20 for part in folds.parts(100, 5))
    assert folds.parts(100, 5)[0] != frozenset(range(1, 101, 5))


def test_one_part_alone_is_told_when_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(whole: Any, images: Path, held: frozenset[int], words: Any, named: dict[str, Any]) -> Any:
        scores = {"ap": 0.25, "ap50": 0.5, "ap75": 0.125, "seconds": 60.0, "commit": "c", "machine": "m"}
        return folds.Result(**named, images=len(held), objects=0, **scores)

    monkeypatch.setattr(folds, "KEPT", kept.Results(tmp_path / "folds.jsonl", folds.Result))
    monkeypatch.setattr(folds, "_one", one)
    monkeypatch.setattr("sys.argv", ["folds.py", "data/blood-cells", "--folds", "5", "--only", "3", "--steps", "7"])
    folds.main()
    out = capsys.readouterr().out
    assert out.count("mean") == 2  # of part 3, then again of all that is known
    assert out.splitlines()[1].split() == ["3", "73", "0.250", "0.500", "0.125", "1.0"]
