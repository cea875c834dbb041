import gc
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.config import AugmentConfig, CopyPasteConfig, CropConfig, DataConfig, RunConfig
from detector.data import coco, dataset, loader
from detector.data.columns import Columns
from detector.data.dataset import Key
from detector.data.decode import ImageFile, read_image
from detector.errors import DataError
from detector.geometry import letterbox
from detector.types import Batch, BatchShape, Preprocess, Targets
from tests.unit.data import make

PREPROCESS = Preprocess(canvas_hw=(48, 64))


def _config(*, workers: int = 0, batch_size: int = 4, seed: int = 0) -> RunConfig:
    return RunConfig(seed=seed, data=DataConfig(batch_size=batch_size, workers=workers))


def _train(columns: Columns, count: int, *, first: int = 0, batch_size: int = 4, **config: int) -> list[Batch]:
    shapes = repeat(BatchShape(size=batch_size, window_hw=PREPROCESS.canvas_hw), count)
    settings = _config(batch_size=batch_size, **config)
    return list(loader.training_loader(columns, PREPROCESS, settings, shapes, first=first))


def _keys(seed: int, num_images: int, sizes: Sequence[int], first: int = 0) -> list[list[Key]]:
    shapes = (BatchShape(size=size, window_hw=(16, 16)) for size in sizes)
    return list(loader.stream(seed, num_images, shapes, first))


def _evaluate(columns: Columns, *, batch_size: int = 4, workers: int = 0) -> list[Batch]:
    return list(loader.evaluation_loader(columns, PREPROCESS, batch_size=batch_size, workers=workers))


def _crowd(targets: Targets) -> Tensor:
    return torch.zeros_like(targets.is_object) if targets.is_crowd is None else targets.is_crowd


def _same(a: Batch, b: Batch) -> bool:
    tensors = [
        (batch.images, batch.indices, t.boxes, t.labels, t.is_object, _crowd(t))
        for batch, t in ((a, a.targets), (b, b.targets))
    ]
    return all(map(torch.equal, *tensors)) and (a.placements, a.unreadable) == (b.placements, b.unreadable)


def _all_same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))


@pytest.fixture
def columns(tmp_path: Path) -> Columns:
    return coco.read(*make.dataset(tmp_path, 10))


# The order of images


@given(
    seed=st.integers(0, 2**63 - 1),
    num_images=st.integers(1, 30),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=40),
    entry=st.integers(0, 39),
)
def test_a_stream_can_be_entered_anywhere(seed: int, num_images: int, sizes: list[int], entry: int) -> None:
    whole = _keys(seed, num_images, sizes)
    entry = min(entry, len(sizes))
    assert _keys(seed, num_images, sizes[entry:], first=sum(sizes[:entry])) == whole[entry:]
    assert [len(batch) for batch in whole] == sizes
    keys = [key for batch in whole for key in batch]
    for epoch, start in enumerate(range(0, len(keys) - num_images + 1, num_images)):
        part = keys[start : start + num_images]
        assert {key[0] for key in part} == {epoch}
        assert sorted(key[1] for key in part) == list(range(num_images))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [_keys(seed, 50, [50], first=50 * epoch)[0] for seed in (0, 1, 2) for epoch in (0, 1)]
    assert len({tuple(index for _, index, *_ in order) for order in orders}) == 6
    firsts = Counter(_keys(seed, 5, [1])[0][0][1] for seed in range(500))
    assert min(firsts.values()) > 60  # every image is as likely to come first


# Training batches


def test_a_training_batch_keeps_the_contract(columns: Columns) -> None:
    for batch in _train(columns, 4):
        assert batch.images.shape == (4, 3, 48, 64)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        targets = batch.targets
        is_crowd = _crowd(targets)
        assert targets.boxes.shape == (*targets.labels.shape, 4)
        assert targets.labels.shape[1] == (targets.is_object | is_crowd).sum(dim=1).max().clamp(min=1)
        assert not (targets.is_object & is_crowd).any()
        assert batch.indices.dtype == torch.int64
        assert len(batch.placements) == 4
        sides = targets.boxes[targets.is_object | is_crowd]
        assert (sides[:, 2:] - sides[:, :2] > 0.99).all()
        assert (targets.boxes[~(targets.is_object | is_crowd)] == 0).all()


def test_a_batch_of_cut_outs_beside_one_of_whole_canvases(columns: Columns) -> None:
    shapes = [BatchShape(size=6, window_hw=(32, 16)), BatchShape(size=2, window_hw=PREPROCESS.canvas_hw)]
    small, whole = loader.training_loader(columns, PREPROCESS, _config(), shapes)
    assert small.images.shape == (6, 3, 32, 16)
    assert whole.images.shape == (2, 3, 48, 64)
    limits = torch.tensor([16, 32, 16, 32])
    assert (small.targets.boxes <= limits).all()


def test_any_number_of_workers_gives_the_same_batches(columns: Columns) -> None:
    # The pool of OpenCV's threads is alive when the workers are forked, as it is after a prediction.
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1501, 1501))
    expected = _train(columns, 7)
    for workers in (1, 4):
        assert _all_same(_train(columns, 7, workers=workers), expected)


def test_a_resumed_stream_equals_the_uninterrupted_one(columns: Columns) -> None:
    whole = _train(columns, 9, batch_size=3)
    for start in (1, 3, 4, 7):
        assert _all_same(_train(columns, 2, batch_size=3, first=3 * start), whole[start : start + 2])
    assert _all_same(_train(columns, 2, batch_size=3, first=12, workers=1), whole[4:6])


def test_epochs_and_seeds_differ_in_their_changes(columns: Columns) -> None:
    def pictures(batches: list[Batch]) -> dict[int, bytes]:
        pairs = [(int(i), image) for batch in batches for i, image in zip(batch.indices, batch.images, strict=True)]
        return {index: image.numpy().tobytes() for index, image in pairs}

    first, second = pictures(_train(columns, 2, batch_size=5)), pictures(_train(columns, 2, batch_size=5, first=10))
    other = pictures(_train(columns, 2, batch_size=5, seed=1))
    assert first.keys() == second.keys() == set(range(10))
    assert all(first[i] != second[i] and first[i] != other[i] for i in range(10))


def test_the_global_random_state_is_not_moved(columns: Columns) -> None:
    before = torch.get_rng_state()
    _train(columns, 2)
    _train(columns, 2, workers=1)
    _evaluate(columns)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_without_objects_has_one_empty_row(tmp_path: Path) -> None:
    for batch in _train(coco.read(*make.dataset(tmp_path, 3, objects=0)), 2):
        assert batch.targets.boxes.shape == (4, 1, 4)
        assert not batch.targets.is_object.any()
        assert batch.targets.is_crowd is None


def test_a_data_set_smaller_than_a_batch(tmp_path: Path) -> None:
    batch = _train(coco.read(*make.dataset(tmp_path, 2)), 1, batch_size=7)[0]
    assert Counter(batch.indices.tolist()).most_common() in ([(0, 4), (1, 3)], [(1, 4), (0, 3)])


# Several images in one


MIXING = AugmentConfig(quarter_turns=0.3, mosaic=0.6, mixup=0.5, copy_paste=CopyPasteConfig(probability=0.6))


def _mix(
    columns: Columns,
    shapes: Sequence[BatchShape],
    *,
    first: int = 0,
    workers: int = 0,
    augment: AugmentConfig = MIXING,
    part: loader.Part = loader.WHOLE,
) -> list[Batch]:
    config = RunConfig(data=DataConfig(batch_size=4, workers=workers), augment=augment)
    return list(loader.training_loader(columns, PREPROCESS, config, shapes, first=first, part=part))


def _last_clean(count: int, clean: int) -> list[BatchShape]:
    hw = PREPROCESS.canvas_hw
    return [BatchShape(size=4, window_hw=hw, is_clean=step >= count - clean) for step in range(count)]


def test_mixed_batches_depend_on_their_place_in_the_run_alone(columns: Columns) -> None:
    """Not on the number of loader processes, on where the run was entered, nor on the number of trainers."""
    shapes = _last_clean(7, clean=3)
    whole = _mix(columns, shapes)
    assert _all_same(_mix(columns, shapes, workers=2), whole)
    for start in (1, 3, 5):
        assert _all_same(_mix(columns, shapes[start:], first=4 * start), whole[start:])
    halves = [_mix(columns, shapes[:2], part=loader.Part(index=index, count=2)) for index in range(2)]
    for batch, *parts in zip(whole[:2], *halves, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


def test_the_clean_part_is_that_of_a_run_without_mixing(columns: Columns) -> None:
    mixed = _mix(columns, _last_clean(6, clean=3))
    plain = _mix(columns, _last_clean(6, clean=3), augment=AugmentConfig(quarter_turns=0.3))
    assert [_same(a, b) for a, b in zip(mixed, plain, strict=True)] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("size_hw", [(48, 64), (16, 16), (32, 16)])
def test_mixed_objects_stay_in_sight_of_whatever_is_shown(columns: Columns, size_hw: tuple[int, int]) -> None:
    for batch in _mix(columns, [BatchShape(size=8, window_hw=size_hw)] * 2):
        assert batch.images.shape == (8, 3, *size_hw)
        sides = batch.targets.boxes[batch.targets.is_object | _crowd(batch.targets)]
        assert (sides >= 0).all()
        assert (sides <= torch.tensor([*size_hw[::-1]] * 2)).all()
        assert (sides[:, 2:] - sides[:, :2] > 0.99).all()


# Unreadable images


def _spoil(columns: Columns, *rows: int) -> None:
    for row in rows:
        columns.path(row).write_bytes(columns.path(row).read_bytes()[:300])


def _files(batch: Batch) -> list[str]:
    return [reason.split(": ")[0] for reason in batch.unreadable]


def test_a_file_that_two_images_share_is_judged_for_each(tmp_path: Path) -> None:
    """The reason comes from the image that was tried, not from the first that names the file."""
    annotations, images = make.dataset(tmp_path, 2)
    tree = json.loads(annotations.read_text())
    first, second = tree["images"]
    second.update(file_name=first["file_name"], width=first["width"] + 1)
    annotations.write_text(json.dumps(tree))
    columns = coco.read(annotations, images)
    (batch,) = _evaluate(columns)
    assert batch.indices.tolist() == [0]
    (reason,) = batch.unreadable
    assert f"says {first['width'] + 1}x" in reason


def test_an_unreadable_image_is_replaced_by_the_next_and_named(columns: Columns) -> None:
    whole = _train(columns, 5)
    _spoil(columns, 4, 9)
    columns.path(5).unlink()
    damaged = _train(columns, 5)
    for before, after in zip(whole, damaged, strict=True):
        stands_in = {4: 6, 5: 6, 9: 0}
        assert after.indices.tolist() == [stands_in.get(i, i) for i in before.indices.tolist()]
        lost = [row for i in before.indices.tolist() for row in {4: (4, 5), 5: (5,), 9: (9,)}.get(i, ())]
        assert _files(after) == [str(columns.path(row)) for row in dict.fromkeys(lost)]
        kept = torch.tensor([i not in stands_in for i in before.indices.tolist()])
        assert torch.equal(before.images[kept], after.images[kept])
    assert _all_same(_train(columns, 5, workers=2), damaged)


def test_a_partner_that_cannot_be_read_costs_no_sample(columns: Columns) -> None:
    rows = [2, 4, 5]
    _spoil(columns, *rows)
    batches = _mix(columns, _last_clean(5, clean=0))
    for batch, before in zip(batches, _train(columns, 5), strict=True):
        assert torch.equal(batch.indices, before.indices)  # as without mixing
    named = {name for batch in batches for name in _files(batch)}
    assert named == {str(columns.path(row)) for row in rows}
    only = [row for row in range(10) if row != 7]
    _spoil(columns, *only)
    assert {int(i) for batch in _mix(columns, _last_clean(2, clean=0)) for i in batch.indices} == {7}


def test_an_image_that_stands_in_does_not_repeat_itself(columns: Columns) -> None:
    _spoil(columns, 4)
    batch = _train(columns, 1, batch_size=10)[0]
    first, second = np.flatnonzero(batch.indices.numpy() == 5)
    assert not torch.equal(batch.images[first], batch.images[second])


@pytest.mark.parametrize("workers", [0, 1])
def test_no_readable_image_at_all_is_one_clear_line(columns: Columns, workers: int) -> None:
    _spoil(columns, *range(10))
    for load in (lambda: _train(columns, 1, workers=workers), lambda: _evaluate(columns, workers=workers)):
        with pytest.raises(DataError, match="none of its 10 images") as caught:
            load()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size_hw", [(60, 40), (41, 60), (40, 61)])
def test_an_image_of_another_size_than_the_file_says_is_not_trusted(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    columns = coco.read(*make.dataset(tmp_path, 3))
    make.picture(columns.path(0), size_hw)
    batch = _evaluate(columns)[0]
    (reason,) = batch.unreadable
    assert reason.startswith(f"{columns.path(0)}: is {size_hw[1]}x{size_hw[0]}, but")
    assert batch.indices.tolist() == [1, 2]


# Loader processes that are lost


def _once(marker: Path, monkeypatch: pytest.MonkeyPatch, row: int, fault: Callable[[], object]) -> None:
    """Let the fault strike the process that reads `row` first."""
    read = dataset._open

    def load(columns: Columns, wanted: int) -> ImageFile:
        if wanted == row and not marker.exists():
            marker.touch()
            fault()
        return read(columns, wanted)

    monkeypatch.setattr(dataset, "_open", load)


@pytest.mark.parametrize("fault", ["killed", "hangs"])
def test_a_lost_process_loses_and_repeats_no_batch(
    fault: str, columns: Columns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _train(columns, 7)
    monkeypatch.setattr(loader, "_LOOK_EVERY", 0.2)
    monkeypatch.setattr(loader, "WORKER_TIMEOUT", 1.0)
    strikes = {"killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "hangs": lambda: time.sleep(600)}
    _once(tmp_path / "struck", monkeypatch, int(expected[3].indices[1]), strikes[fault])
    assert _all_same(_train(columns, 7, workers=2), expected)
    assert str(columns.path(int(expected[3].indices[1]))).rpartition("/")[0] in caplog.text
    assert {"killed": "exited unexpectedly", "hangs": "no loader process has answered"}[fault] in caplog.text


def test_an_image_that_kills_every_process_is_named(
    columns: Columns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = loader._names
    monkeypatch.setattr(loader, "_names", lambda *args: f"a\x1b[2J\n{names(*args)}")
    monkeypatch.setattr(loader, "_LOOK_EVERY", 0.2)
    monkeypatch.setattr(dataset, "_open", lambda columns, row: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"(?s)made the batch of .*\.jpg.*, 3 times in a row; .*--workers 0"):
        _train(columns, 2, workers=1)
    said = [record.getMessage() for record in caplog.records if "made the batch" in record.getMessage()]
    assert len(said) == 2
    assert all(line.isprintable() for line in said)


# Evaluation batches


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_every_image_once_in_order(columns: Columns, workers: int) -> None:
    batches = _evaluate(columns, workers=workers)
    assert [len(batch.images) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(10))
    row = 0
    for batch in batches:
        assert len(batch.placements) == len(batch.images)
        for k, placement in enumerate(batch.placements):
            image = read_image(columns.path(row))
            assert placement == letterbox.fit(image.shape[:2], PREPROCESS.canvas_hw)
            boxes = torch.from_numpy(columns.boxes[columns.objects(row)])
            assert torch.equal(batch.targets.boxes[k, : len(boxes)], letterbox.boxes_to_canvas(boxes, placement))
            assert batch.targets.is_object[k].sum() == len(boxes)
            row += 1


def test_evaluation_leaves_out_and_names_what_it_cannot_read(columns: Columns) -> None:
    whole = _evaluate(columns)
    _spoil(columns, 0, 1, 2, 3, 6, 8, 9)
    batches = _evaluate(columns)
    assert [batch.indices.tolist() for batch in batches] == [[4, 5, 7]]
    assert _files(batches[0]) == [str(columns.path(row)) for row in (0, 1, 2, 3, 6, 8, 9)]
    assert torch.equal(batches[0].images, whole[1].images[[0, 1, 3]])
    assert len(batches[0].placements) == 3


def test_evaluation_never_gives_an_empty_batch(columns: Columns) -> None:
    _spoil(columns, 4, 5, 6, 7)
    batches = _evaluate(columns)
    assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [8, 9]]
    assert [len(batch.unreadable) for batch in batches] == [0, 4]


# Processes


def _children() -> int:
    return len(multiprocessing.active_children())


def test_abandoned_loaders_leave_no_process_behind(columns: Columns) -> None:
    before = _children()
    shapes = repeat(BatchShape(size=4, window_hw=PREPROCESS.canvas_hw))
    batches: Iterator[Batch] = loader.training_loader(columns, PREPROCESS, _config(workers=2), shapes)
    next(batches)
    assert _children() == before + 2
    start = time.monotonic()
    del batches
    gc.collect()
    assert _children() == before
    assert time.monotonic() - start < 30  # no process is waited for in vain


def test_files_stay_as_they_are(columns: Columns) -> None:
    folder = columns.annotations.parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _train(columns, 3)
    _evaluate(columns)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_small_machines_keep_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, workers in ((1, 0), (2, 0), (3, 2), (4, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=cpus: set(range(cpus)), raising=False)
        assert loader.num_workers(DataConfig()) == workers
        assert loader.num_workers(DataConfig(workers=5)) == 5


def test_processes_are_as_many_as_shared_memory_holds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = 3 * 4 * 3 * 48 * 64  # three batches of four images
    for free, asked, made in ((100 * one, 8, 8), (8 * one, 8, 8), (8 * one - 1, 8, 7), (one - 1, 8, 0), (0, 0, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        caplog.clear()
        assert loader.affordable_workers(asked, one // 3) == made
        assert ("--shm-size" in caplog.text) == (made < asked)


@pytest.mark.parametrize(
    ("crops", "images"),
    [
        (CropConfig(), 4),
        (CropConfig(share=0.0, size=1.0, batch_factor=3), 4),
        (CropConfig(share=0.5, size=1.0, batch_factor=3), 12),
        (CropConfig(share=0.5, size=0.1, batch_factor=3), 4),
    ],
)
def test_the_largest_batch_of_both_phases_counts(
    columns: Columns, monkeypatch: pytest.MonkeyPatch, crops: CropConfig, images: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(loader, "affordable_workers", lambda _, batch_bytes: asked.append(batch_bytes) or 0)
    config = RunConfig(data=DataConfig(batch_size=4, workers=2, crops=crops))
    loader.training_loader(columns, PREPROCESS, config, [])
    assert asked == [images * 3 * 48 * 64]


# Several processes


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), count=st.integers(1, 5))
def test_the_parts_of_a_batch_are_the_batch(sizes: list[int], count: int) -> None:
    parts = [loader.Part(index=index, count=count) for index in range(count)]
    for batch in _keys(3, 7, [size * count for size in sizes]):
        shares = [part.of(batch) for part in parts]
        assert [key for share in shares for key in share] == batch
        assert len({len(share) for share in shares}) == 1


def test_a_process_gets_its_part_of_the_images(columns: Columns) -> None:
    (whole,) = _train(columns, 1)
    for index in range(2):
        shapes = [BatchShape(size=4, window_hw=PREPROCESS.canvas_hw)]
        part = loader.Part(index=index, count=2)
        (half,) = loader.training_loader(columns, PREPROCESS, _config(), shapes, part=part)
        assert torch.equal(half.images, whole.images[2 * index : 2 * index + 2])


def test_scoring_reads_the_rows_that_it_is_given(columns: Columns) -> None:
    found = loader.evaluation_loader(columns, PREPROCESS, batch_size=2, workers=0, rows=range(1, 10, 3))
    assert [batch.indices.tolist() for batch in found] == [[1, 4], [7]]


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "num_cores", lambda: 16)
    assert [loader.num_workers(DataConfig(), trainers) for trainers in (1, 2, 4, 8)] == [8, 7, 3, 0]
