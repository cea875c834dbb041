"""The benchmarks of loading, on a few small pictures."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detector.benchmark import contest, data, load, pictures
from detector.data import coco
from detector.errors import DetectorError


def test_ours_and_torchvisions_are_the_same_pictures(tmp_path: Path) -> None:
    for size_hw, image_size in (((96, 128), 128), ((300, 450), 128), ((130, 170), 96)):
        columns = coco.read(*pictures.write(tmp_path / str(size_hw), num_images=3, size_hw=size_hw))
        apart = load.difference(columns, image_size)
        assert apart.pixels < load.LARGEST_PIXEL_DIFFERENCE
        assert apart.boxes < load.LARGEST_BOX_DIFFERENCE


def test_another_picture_is_no_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check is for: pictures that are moved by a pixel, or boxes that are."""
    columns = coco.read(*pictures.write(tmp_path, num_images=2, size_hw=(200, 300)))
    make = load._Torchvision.make
    monkeypatch.setattr(load._Torchvision, "make", lambda *args: (make(*args)[0].roll(2, dims=2), make(*args)[1] + 1.5))
    apart = load.difference(columns, 150)
    assert apart.pixels > load.LARGEST_PIXEL_DIFFERENCE
    assert apart.boxes > load.LARGEST_BOX_DIFFERENCE
    with pytest.raises(DetectorError, match="cannot be compared"):
        load.measure(load.Settings(folder=tmp_path, image_size=150, num_batches=1, rounds=1), [].append)


@pytest.fixture
def _keep_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A way runs in a process of its own and may take all of it; here it may not."""
    monkeypatch.setattr(cv2, "setNumThreads", lambda _: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.mark.usefixtures("_keep_threads")
def test_every_way_loads_as_many(tmp_path: Path) -> None:
    columns = coco.read(*pictures.write(tmp_path / "data", num_images=3, size_hw=(60, 80)))
    runs = [load.run(way, columns, 64, 2, tmp_path / "cache") for way in load.WAYS]
    assert runs[0].found == runs[1].found == runs[2].found == {"images": 32, "shapes": "(16, 3, 48, 64)"}
    assert len(list((tmp_path / "cache").glob("*/*.raw"))) == 3


def test_training_from_memory_is_the_same_training(tmp_path: Path) -> None:
    pictures.write(tmp_path / "data", num_images=4, size_hw=(60, 80))
    settings = data.Settings(folder=tmp_path / "data", steps=3, workers=0, device="cpu")
    files, memory = (data.run(way, settings, tmp_path / "cache") for way in ("files", "memory"))
    assert files.found == memory.found
    assert np.isfinite(files.found["loss"]).all()


def test_a_generated_picture_is_soft_with_fine_detail() -> None:
    picture = pictures.picture(np.random.default_rng(0), (240, 320))
    neighbours = np.abs(np.diff(picture.astype(int), axis=1)).mean()
    assert 2 < neighbours < 12
    assert picture.std() > 30


@pytest.mark.usefixtures("_keep_threads")
def test_the_report_has_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures.write(tmp_path / "data", num_images=2, size_hw=(60, 80))

    def here(module: str, words: Sequence[str]) -> contest.Measured:
        assert module == "detector.benchmark.load"
        way, annotations, images, image_size, num_batches, cache = words
        columns = coco.read(Path(annotations), Path(images))
        return load.run(way, columns, int(image_size), int(num_batches), Path(cache))

    monkeypatch.setattr(contest, "run_child", here)
    settings = load.Settings(folder=tmp_path / "data", image_size=64, num_batches=1, rounds=2)
    report = load.measure(settings, [].append)
    assert all(way.is_equal for way in report.ways.values())
    assert "torchvision" in contest.table(report)
