import dataclasses
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detector.config import AugmentConfig, DataConfig, RunConfig
from detector.data import cache as caches
from detector.data import coco
from detector.data.cache import ImageCache
from detector.data.columns import Columns
from detector.data.dataset import Item, Key, TrainingSet
from detector.types import Preprocess, Sample
from tests.unit.data import make

PREPROCESS = Preprocess(canvas_hw=(48, 64))
SHOWN = AugmentConfig(
    vertical_flip=0.5, quarter_turns=0.5, brightness=0, contrast=0, saturation=0, hue=0, min_visibility=0.0
)  # fmt: skip


def _large(folder: Path, size_hw: tuple[int, int] = (403, 517), suffix: str = "jpg") -> Columns:
    """One picture, much larger than the canvas, with a red object on blue."""
    height, width = size_hw
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 2] = 255
    pixels[100:260, 150:390] = (255, 0, 0)
    (folder / "images").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "images" / f"a.{suffix}", quality=98, subsampling=0)
    tree = make.tree(
        images=[make.image(name=f"a.{suffix}", size_hw=size_hw)],
        annotations=[make.annotation(bbox=[150, 100, 240, 160], area=240 * 160)],
    )
    return coco.read(*make.write(folder, tree))


def _sample(data: TrainingSet, epoch: int) -> Sample:
    item = data[Key(epoch, 0, PREPROCESS.canvas_hw)]
    assert isinstance(item, Item)
    assert item.sample is not None
    return item.sample


def _red(image: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(image[:, :, 0].astype(int) > image[:, :, 2])
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("size_hw", [(403, 517), (400, 520), (1203, 1601)])
@pytest.mark.parametrize("cached", [False, True])
def test_an_object_in_a_large_picture_is_where_its_box_says(
    tmp_path: Path, size_hw: tuple[int, int], cached: bool
) -> None:
    columns = _large(tmp_path, size_hw)
    config = RunConfig(data=DataConfig(cache="disk", cache_folder=str(tmp_path / "cache")), augment=SHOWN)
    cache = ImageCache.open(columns, config, PREPROCESS.canvas_hw) if cached else None
    data = TrainingSet(columns, PREPROCESS, SHOWN, 0, cache)
    found = 0
    for epoch in range(40):
        sample = _sample(data, epoch)
        for box in sample.boxes:
            np.testing.assert_allclose(box, _red(sample.image), atol=1.01)
            found += 1
    assert found > 30


def test_a_large_jpeg_is_decoded_reduced_and_looks_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[int] = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flag: flags.append(flag) or decode(data, flag))
    jpeg = TrainingSet(_large(tmp_path / "a"), PREPROCESS, SHOWN, 0)
    png = TrainingSet(_large(tmp_path / "b", suffix="png"), PREPROCESS, SHOWN, 0)
    for epoch in range(8):
        a, b = _sample(jpeg, epoch), _sample(png, epoch)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1)
        assert np.abs(a.image.astype(int) - b.image).mean() < 3
    small = {cv2.IMREAD_REDUCED_GRAYSCALE_2, cv2.IMREAD_REDUCED_GRAYSCALE_4, cv2.IMREAD_REDUCED_GRAYSCALE_8}
    assert all(any(flag & one for one in small) for flag in flags)


# The cache


def _config(tmp_path: Path, **data: object) -> RunConfig:
    given = {"cache": "disk", "cache_folder": str(tmp_path / "cache"), **data}
    return RunConfig(data=DataConfig(**given), augment=SHOWN)  # type: ignore[arg-type]


def _open(tmp_path: Path, columns: Columns, **data: object) -> ImageCache:
    cache = ImageCache.open(columns, _config(tmp_path, **data), PREPROCESS.canvas_hw)
    assert cache is not None
    return cache


def _entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*/*.raw"))


@pytest.fixture
def columns(tmp_path: Path) -> Columns:
    return coco.read(*make.dataset(tmp_path / "data", 5))


def _shown(columns: Columns, cache: ImageCache | None) -> list[bytes]:
    data = TrainingSet(columns, PREPROCESS, SHOWN, 0, cache)
    items = [data[Key(0, row, PREPROCESS.canvas_hw)] for row in range(len(columns))]
    return [item.sample.image.tobytes() for item in items if isinstance(item, Item) and item.sample is not None]


def test_small_pictures_come_out_of_the_cache_as_they_went_in(tmp_path: Path, columns: Columns) -> None:
    """They are smaller than the canvas at its largest zoom, so nothing is resampled twice."""
    expected = _shown(columns, None)
    assert _shown(columns, _open(tmp_path, columns)) == expected
    assert len(_entries(tmp_path)) == len(columns)
    reads: list[int] = []
    cache = _open(tmp_path, columns)
    for row in range(len(columns)):
        assert cache.image(row, lambda row=row: reads.append(row)) is not None  # type: ignore[arg-type,return-value]
    assert reads == []
    assert _shown(columns, cache) == expected


def test_a_damaged_entry_is_made_again(tmp_path: Path, columns: Columns) -> None:
    expected = _shown(columns, _open(tmp_path, columns))
    entries = _entries(tmp_path)
    whole = [entry.read_bytes() for entry in entries]
    changed = bytearray(whole[0])
    changed[len(changed) // 2] ^= 4
    for entry, content in zip(entries, [changed, whole[1][:-7], b"", whole[3][:9], whole[3]], strict=True):
        entry.write_bytes(content)
    assert _shown(columns, _open(tmp_path, columns)) == expected
    assert [entry.read_bytes() for entry in entries[:4]] == whole[:4]


def test_a_picture_that_was_changed_is_read_anew(tmp_path: Path, columns: Columns) -> None:
    before = _shown(columns, _open(tmp_path, columns))
    make.picture(columns.path(2), tuple(columns.sizes_hw[2].tolist()), seed=77)
    after = _shown(columns, _open(tmp_path, columns))
    assert after == _shown(columns, None)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]


def test_a_change_is_seen_by_its_time_alone(tmp_path: Path, columns: Columns) -> None:
    """Another picture of as many bytes."""
    one, other = columns.path(0), columns.path(3)
    for path, level in ((one, 60), (other, 200)):
        Image.fromarray(np.full((40, 60, 3), level, np.uint8)).save(path)
    assert one.stat().st_size == other.stat().st_size
    before = _shown(columns, _open(tmp_path, columns))
    one.write_bytes(other.read_bytes())
    os.utime(one, (9, 9))
    after = _shown(columns, _open(tmp_path, columns))
    assert before[0] != after[0]
    assert after == _shown(columns, None)


def test_an_unreadable_picture_is_not_kept(tmp_path: Path, columns: Columns) -> None:
    columns.path(1).write_bytes(b"no picture")
    columns.path(3).unlink()
    data = TrainingSet(columns, PREPROCESS, SHOWN, 0, _open(tmp_path, columns))
    item = data[Key(0, 1, PREPROCESS.canvas_hw)]
    assert isinstance(item, Item)
    assert (item.index, len(item.unreadable)) == (2, 1)
    assert len(_entries(tmp_path)) == 1


def test_a_full_disk_is_one_warning(
    tmp_path: Path, columns: Columns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _shown(columns, None)
    cache = _open(tmp_path, columns)

    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    assert _shown(columns, cache) == expected
    assert caplog.text.count("No space left on device") == 1
    assert list((tmp_path / "cache").glob("*/.*.tmp")) == []


def test_a_place_that_cannot_be_written_is_one_warning(
    tmp_path: Path, columns: Columns, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    config = _config(tmp_path, cache_folder=str(tmp_path / "file" / "cache"))
    assert ImageCache.open(columns, config, PREPROCESS.canvas_hw) is None
    assert caplog.text.count("no image cache") == 1


def test_the_limit_holds(tmp_path: Path, columns: Columns, caplog: pytest.LogCaptureFixture) -> None:
    one = 3 * int(columns.sizes_hw[:1].prod())
    cache = _open(tmp_path, columns, cache_gigabytes=2.5 * one / 1e9)
    assert "room for 2 of 5 images" in caplog.text
    assert _shown(columns, cache) == _shown(columns, None)
    assert len(_entries(tmp_path)) == 2


def test_what_is_stale_makes_room_at_the_next_start(tmp_path: Path, columns: Columns) -> None:
    _shown(columns, _open(tmp_path, columns))
    entries = _entries(tmp_path)
    assert len(entries) == 5
    shelf = entries[0].parent
    cut_off, being_written = shelf / ".a.raw.1.tmp", shelf / ".b.raw.2.tmp"
    cut_off.touch()
    being_written.touch()
    os.utime(cut_off, (1, 1))
    os.utime(columns.path(0), (5, 5))  # a changed picture
    one = 3 * int(columns.sizes_hw[:1].prod())
    _shown(columns, _open(tmp_path, columns, cache_gigabytes=2.5 * one / 1e9))
    assert len(_entries(tmp_path)) == 2
    assert not cut_off.exists()
    assert being_written.exists()


def test_a_shelf_that_was_taken_away_is_built_again(tmp_path: Path, columns: Columns) -> None:
    cache = _open(tmp_path, columns)
    _shown(columns, cache)
    shelf = _entries(tmp_path)[0].parent
    shutil.rmtree(shelf)
    assert _shown(columns, cache) == _shown(columns, None)
    assert len(_entries(tmp_path)) == 5


def test_the_shelf_that_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    sets = [coco.read(*make.dataset(tmp_path / name, 3)) for name in "abc"]
    size = 3 * 3 * int(sets[0].sizes_hw[:1].prod())
    foreign = tmp_path / "cache" / "not-ours"
    foreign.mkdir(parents=True)
    (foreign / "x.raw").write_bytes(b"1")
    for columns in sets[:2]:
        _shown(columns, _open(tmp_path, columns))
    marks = sorted((tmp_path / "cache").glob("*/images.cache"), key=lambda path: path.stat().st_mtime_ns)
    os.utime(marks[0], (1, 1))
    _open(tmp_path, sets[2], cache_gigabytes=2.2 * size / 1e9)
    assert not marks[0].parent.exists()
    assert marks[1].parent.exists()
    assert (foreign / "x.raw").exists()


def test_the_cache_stays_out_of_the_pictures(tmp_path: Path, columns: Columns) -> None:
    config = _config(tmp_path, cache_folder=str(columns.images / "cache"))
    with pytest.raises(ValueError, match=r"data.cache_folder .* is inside the images"):
        ImageCache.open(columns, config, PREPROCESS.canvas_hw)
    assert not (columns.images / "cache").exists()


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert caches.root() == tmp_path / "detector" / "images"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert caches.root() == Path.home() / ".cache" / "detector" / "images"
    assert ImageCache.open(_large(tmp_path / "d"), RunConfig(), (48, 64)) is None


def test_a_kept_picture_is_as_large_as_the_largest_zoom() -> None:
    still = AugmentConfig(scale=(0.5, 1.5), aspect=(1.0, 1.0))

    def sizes(**changes: object) -> list[list[int]]:
        config = RunConfig(augment=dataclasses.replace(still, **changes))  # type: ignore[arg-type]
        of_images = np.array([[480, 640], [40, 60], [96, 128], [70, 90], [200, 800]], np.int32)
        return caches.largest_sizes(of_images, config, (48, 64)).tolist()

    expected = [[72, 96], [40, 60], [72, 96], [70, 90], [24, 96]]
    assert sizes() == sizes(mosaic_scale=(0.5, 3.0)) == sizes(mosaic=0.5) == expected
    assert sizes(quarter_turns=0.1) == expected  # 480x640, turned, fits at three quarters
    assert sizes(mosaic=0.1, mosaic_scale=(0.5, 3.0)) == [[144, 192], [40, 60], [96, 128], [70, 90], [48, 192]]


def test_a_picture_that_fits_better_turned_is_kept_at_that_size() -> None:
    config = RunConfig(augment=AugmentConfig(quarter_turns=0.1, scale=(1.0, 1.0), aspect=(1.0, 1.0)))
    assert caches.largest_sizes(np.array([[640, 320]], np.int32), config, (48, 64)).tolist() == [[64, 32]]
