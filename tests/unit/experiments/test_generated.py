"""The data sets that the automatic recipe is measured on."""

import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from detector.data import coco
from tests.unit.experiments import script

COUNTS = {"train": 3, "val": 1}


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    return script.load("generated")


@pytest.mark.parametrize("place", range(6))
def test_it_is_a_data_set_and_the_seed_decides(generated: ModuleType, tmp_path: Path, place: int) -> None:
    assert len(generated.KINDS) == 6
    kind = generated.KINDS[place]
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        generated.write(tmp_path / name, kind, COUNTS, seed)
    contents = {
        name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        for name in ("a", "again", "b")
    }
    assert contents["a"] == contents["again"] != contents["b"]
    columns = coco.read(tmp_path / "a" / "train.json", tmp_path / "a" / "images")
    assert len(columns) == 3
    assert len(columns.label_map) == kind.num_classes
    assert columns.report.dropped == columns.report.clipped == columns.report.missing_files == 0
    for row in range(3):
        picture = cv2.imread(str(columns.path(row)))
        assert picture.shape[:2] == tuple(columns.sizes_hw[row])
    assert set(json.loads((tmp_path / "a" / "val.json").read_text())) == {"images", "annotations", "categories"}


def test_no_two_kinds_draw_alike(generated: ModuleType) -> None:
    """The number of classes is a part of the seed."""
    assert len({kind.num_classes for kind in generated.KINDS}) == len(generated.KINDS)


def test_what_makes_them_hard(generated: ModuleType) -> None:
    labels: list[int] = []
    for index in range(6):
        picture, found = generated.draw(generated.SPECKS, np.random.default_rng(index))
        assert 8 <= len(found) <= 60
        sides = [np.sqrt(w * h) / max(picture.shape) for _, (_, _, w, h) in found]
        assert np.median(sides) < 0.05
    for index in range(40):
        labels += [label for label, _ in generated.draw(generated.SIGNS, np.random.default_rng(index))[1]]
    counts = np.bincount(labels, minlength=20)
    assert counts.min() > 0
    assert counts[:5].sum() > 1.5 * counts[-5:].sum()


def test_boxes_are_tight(generated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone object on black: its pixels reach all four sides of the box, and none lies outside."""
    monkeypatch.setattr(generated, "_background", lambda h, w, rng: np.zeros((h, w, 3), np.uint8))
    monkeypatch.setattr(generated.cv2, "GaussianBlur", lambda picture, *_: picture)
    kind = generated.Kind(
        name="one", num_classes=20, num_objects=(1, 1), sides=(0.1, 0.4), sizes_hw=((120, 160),), tail=0.0
    )
    seen = 0
    for seed in range(30):
        picture, found = generated.draw(kind, np.random.default_rng(seed))
        for _, (left, top, width, height) in found:
            y, x = np.nonzero(picture.max(axis=2))
            if len(x) < 50 or picture[y, x].max(axis=1).min() < 30:
                continue  # too dark to tell from the ground
            seen += 1
            assert left <= x.min() <= left + 1
            assert top <= y.min() <= top + 1
            assert left + width - 2 <= x.max() <= left + width - 1
            assert top + height - 2 <= y.max() <= top + height - 1
    assert seen >= 5
