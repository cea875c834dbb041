import dataclasses
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config import AugmentConfig
from detector.data.augment import (
    Augmenter,
    Window,
    cut_out,
    draw_window,
    reduced,
    reduction,
    turn,
    turn_boxes,
)
from detector.data.letterbox import place
from detector.geometry import letterbox
from detector.types import Sample
from tests.unit.data import make

CANVAS = (96, 128)
STILL = AugmentConfig(
    horizontal_flip=0, scale=(1, 1), aspect=(1, 1), brightness=0, contrast=0, saturation=0, hue=0, min_visibility=0.3
)  # fmt: skip


def _sample(image: np.ndarray, boxes: list[list[float]], is_crowd: list[bool] | None = None) -> Sample:
    return Sample(
        image=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes)),
        is_crowd=np.array(is_crowd or [False] * len(boxes), np.bool_),
    )


def _same(a: Sample, b: Sample) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Sample))


@settings(max_examples=80)
@given(
    index=st.integers(0, 10**6),
    size_hw=st.tuples(st.integers(60, 300), st.integers(60, 300)),
    corner=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    side=st.tuples(st.floats(0.15, 0.4), st.floats(0.15, 0.4)),
)
def test_an_object_is_found_again_by_its_colour(
    index: int, size_hw: tuple[int, int], corner: tuple[float, float], side: tuple[float, float]
) -> None:
    height, width = size_hw
    box = [round(corner[0] * width), round(corner[1] * height), 0, 0]
    box[2:] = [box[0] + round(side[0] * width), box[1] + round(side[1] * height)]
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 2] = 255
    image[box[1] : box[3], box[0] : box[2]] = (255, 0, 0)
    config = AugmentConfig(
        vertical_flip=0.5, quarter_turns=0.5, scale=(0.4, 2.5), aspect=(0.7, 1.4), min_visibility=0.0
    )
    made = Augmenter(config, CANVAS, 114)(_sample(image, [box]), (0, 0, index))
    assert made.image.shape == (*CANVAS, 3)
    red = (made.image[:, :, 0].astype(int) - made.image[:, :, 2]) > 0
    if len(made.boxes):
        rows, columns = np.nonzero(red)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(made.boxes[0], found, atol=1.5)
        assert (made.boxes[0] >= 0).all()
        assert (made.boxes[0] <= [CANVAS[1], CANVAS[0]] * 2).all()
    else:
        assert red.sum() <= 2 * max(CANVAS)  # at most a sliver under a pixel wide


def test_the_same_key_gives_the_same_sample_in_any_order() -> None:
    sample = _sample(make.pixels((120, 160)), [[10, 20, 60, 90], [70, 5, 150, 100]])
    keys = [(s, e, i) for s in (0, 1, 2**63 - 1) for e in (0, 1) for i in range(4)]
    first, second = Augmenter(AugmentConfig(), CANVAS, 114), Augmenter(AugmentConfig(), CANVAS, 114)
    forward = [first(sample, key) for key in keys]
    backward = [second(sample, key) for key in reversed(keys)][::-1]
    assert all(_same(a, b) for a, b in zip(forward, backward, strict=True))
    assert not any(_same(forward[0], other) for other in forward[1:])
    assert len({made.image.tobytes() for made in forward}) == len(keys)


def test_global_random_state_is_neither_read_nor_moved() -> None:
    sample = _sample(make.pixels(), [[10, 10, 30, 30]])
    augment = Augmenter(AugmentConfig(), CANVAS, 114)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = augment(sample, (0, 0, 0))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert _same(augment(sample, (0, 0, 0)), first)


def test_without_changes_the_image_is_only_fitted() -> None:
    image = make.pixels(CANVAS)
    made = Augmenter(STILL, CANVAS, 114)(_sample(image, [[10, 20, 60, 90]]), (0, 0, 0))
    np.testing.assert_array_equal(made.image, image)
    np.testing.assert_allclose(made.boxes, [[10, 20, 60, 90]], atol=1e-4)


def test_certain_flips_mirror_image_and_boxes() -> None:
    image = make.pixels(CANVAS)
    config = dataclasses.replace(STILL, horizontal_flip=1.0, vertical_flip=1.0)
    made = Augmenter(config, CANVAS, 114)(_sample(image, [[10, 20, 60, 90]]), (0, 0, 0))
    np.testing.assert_array_equal(made.image, image[::-1, ::-1])
    np.testing.assert_allclose(made.boxes, [[128 - 60, 96 - 90, 128 - 10, 96 - 20]], atol=1e-4)


@given(size_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)), turns=st.integers(0, 5), data=st.data())
def test_a_quarter_turn_moves_boxes_with_their_pixels(
    size_hw: tuple[int, int], turns: int, data: st.DataObject
) -> None:
    height, width = size_hw
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 1
    turned, boxes = image, np.array([[x1, y1, x2, y2]], np.float32)
    for _ in range(4):
        before = turned.shape[:2]
        turned, boxes = turn(turned, turns), turn_boxes(boxes, before, turns)
        rows, columns = np.nonzero(turned[:, :, 0])
        assert boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    np.testing.assert_array_equal(turned, image)
    np.testing.assert_array_equal(turn(image, turns), np.rot90(image, turns))


def test_a_turned_image_keeps_its_magnification() -> None:
    """What the canvas then has no room for is cut off."""
    image = make.pixels((60, 128))
    config = dataclasses.replace(STILL, quarter_turns=1.0)
    augment = Augmenter(config, CANVAS, 114)
    turns = set()
    for index in range(20):
        change = augment.draw((60, 128), (0, 0, index))
        turns.add(change.quarter_turns)
        assert change.size_hw == ((96, 60) if change.quarter_turns % 2 else (60, 128))
        made = augment(_sample(image, [[0, 0, 128, 60]]), (0, 0, index))
        assert (made.boxes[0, 2:] - made.boxes[0, :2]).tolist() == list(change.size_hw)[::-1]
    assert turns == {1, 2, 3}
    share = [Augmenter(AugmentConfig(quarter_turns=0.3), CANVAS, 114).draw((9, 9), (0, 0, k)) for k in range(500)]
    assert 0.2 < np.mean([change.quarter_turns > 0 for change in share]) < 0.4


def test_a_key_means_the_same_changes_for_ever() -> None:
    """What was drawn before there were turns: a run from then can be repeated."""
    augment = Augmenter(AugmentConfig(vertical_flip=0.5), CANVAS, 114)
    change = augment.draw((101, 150), (3, 2, 1))
    assert change.window == Window(source=(14, 7, 145, 97), size_hw=(96, 128), top_left=(0, 0))
    assert (change.quarter_turns, change.flip_horizontal, change.flip_vertical) == (0, False, False)
    assert change.colours is not None
    assert change.colours.order == (0, 1, 2, 3)
    assert change.colours.hue == pytest.approx(-0.014613259722, abs=1e-9)
    change = augment.draw((107, 150), (3, 2, 7), (32, 48))
    assert change.window == Window(source=(96, 51, 147, 87), size_hw=(32, 48), top_left=(0, 0))


def test_what_is_drawn_is_independent() -> None:
    """Both flips, and the brightness beside them: four combinations, as often as each other."""
    config = AugmentConfig(horizontal_flip=0.5, vertical_flip=0.5)
    augment = Augmenter(config, CANVAS, 114)
    drawn = [augment.draw((96, 128), (0, 0, index)) for index in range(1200)]
    kinds = Counter((change.flip_horizontal, change.flip_vertical) for change in drawn)
    assert len(kinds) == 4
    assert min(kinds.values()) > 240
    colours = [change.colours for change in drawn if change.colours is not None]
    names = ("brightness", "contrast", "saturation", "hue")
    values = np.array([[change.flip_horizontal, change.flip_vertical] for change in drawn], float)
    values = np.concatenate([values, [[getattr(one, name) for name in names] for one in colours]], axis=1)
    between = np.corrcoef(values.T) - np.eye(6)
    assert np.abs(between).max() < 0.12
    for name, spread in zip(names, (0.2, 0.2, 0.2, 0.02), strict=True):
        of_name = np.array([getattr(one, name) for one in colours]) - (name != "hue")
        assert 0.97 * spread < np.abs(of_name).max() <= spread
        assert abs(of_name.mean()) < 0.1 * spread
    assert len({one.order for one in colours}) == 24


def test_colours_are_those_of_albumentations() -> None:
    import albumentations

    config = dataclasses.replace(STILL, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    augment = Augmenter(config, CANVAS, 114)
    image = make.pixels(CANVAS)
    for index in range(6):
        colours = augment.draw(CANVAS, (0, 0, index)).colours
        assert colours is not None
        made = augment(_sample(image, []), (0, 0, index)).image
        expected = image
        for number in colours.order:
            name = ("brightness", "contrast", "saturation", "hue")[number]
            ranges = dict.fromkeys(("brightness", "contrast", "saturation"), (1.0, 1.0)) | {"hue": (0.0, 0.0)}
            ranges[name] = (getattr(colours, name),) * 2
            expected = albumentations.Compose([albumentations.ColorJitter(**ranges, p=1)])(image=expected)["image"]
        np.testing.assert_array_equal(made, expected)


@settings(max_examples=60)
@given(
    size_hw=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    zoom=st.floats(0.02, 3),
    seed=st.integers(0, 99),
)
def test_a_reduction_leaves_enough_pixels_and_the_same_boxes(size_hw: tuple[int, int], zoom: float, seed: int) -> None:
    config = AugmentConfig(scale=(zoom, zoom), aspect=(0.8, 1.25))
    fitted = letterbox.fit(size_hw, CANVAS).scale
    window = draw_window(np.random.default_rng(seed), config, size_hw, CANVAS, fitted)
    factor = reduction(window)
    made = reduced(window, factor)
    left, top, right, bottom = made.source
    if factor > 1:
        assert right - left >= window.size_hw[1]
        assert bottom - top >= window.size_hw[0]
    assert 0 <= left < right
    assert right * factor <= size_hw[1]
    assert bottom * factor <= size_hw[0]
    # A point of the image comes to rest where it would have without the reduction, but for the lost part of a square.
    x = np.array([window.source[0], window.source[2]], float)
    whole = (x - window.source[0]) * window.size_hw[1] / (window.source[2] - window.source[0])
    less = (x / factor - left) * window.size_hw[1] / (right - left)
    assert np.abs(whole - less).max() <= 1 + 1e-9


def test_padding_keeps_its_grey_whatever_the_colours_do() -> None:
    config = AugmentConfig(scale=(0.3, 0.3), aspect=(1, 1), brightness=0.5, contrast=0.5)
    for index in range(5):
        made = Augmenter(config, CANVAS, 114)(_sample(np.full((96, 128, 3), 30, np.uint8), []), (0, 0, index))
        assert ((made.image == 114).all(axis=2)).sum() == 96 * 128 - 29 * 38


def test_colours_change_and_boxes_do_not() -> None:
    config = dataclasses.replace(STILL, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    image = make.pixels(CANVAS)
    augment = Augmenter(config, CANVAS, 114)
    made = [augment(_sample(image, [[10, 20, 60, 90]]), (0, 0, i)) for i in range(8)]
    assert len({sample.image.tobytes() for sample in made}) == 8
    assert all(np.abs(sample.image.astype(int) - image).max() > 3 for sample in made)
    for sample in made:
        np.testing.assert_allclose(sample.boxes, [[10, 20, 60, 90]], atol=1e-4)


def test_zoom_and_aspect_stay_in_their_ranges_and_fill_them() -> None:
    config = AugmentConfig(scale=(0.5, 0.9), aspect=(0.9, 1.1))
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, config, (96, 128), CANVAS, 1.0) for _ in range(400)]
    sizes = np.array([window.size_hw for window in windows])
    zoom = np.sqrt(sizes.prod(axis=1) / (96 * 128))
    aspect = sizes[:, 1] / sizes[:, 0] * 96 / 128
    assert 0.49 < zoom.min() < 0.52
    assert 0.87 < zoom.max() < 0.91
    assert 0.88 < aspect.min() < 0.92
    assert 1.08 < aspect.max() < 1.12
    starts = np.array([window.top_left for window in windows])
    assert (starts >= 0).all()
    assert (starts + sizes <= CANVAS).all()
    assert starts.std(axis=0).min() > 3


@given(
    size_hw=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    zoom=st.floats(0.01, 30),
    aspect=st.floats(0.1, 10),
    seed=st.integers(0, 99),
)
def test_a_window_is_always_inside_image_and_canvas(
    size_hw: tuple[int, int], zoom: float, aspect: float, seed: int
) -> None:
    config = AugmentConfig(scale=(zoom, zoom), aspect=(aspect, aspect))
    window = draw_window(np.random.default_rng(seed), config, size_hw, CANVAS, letterbox.fit(size_hw, CANVAS).scale)
    left, top, right, bottom = window.source
    assert 0 <= left < right <= size_hw[1]
    assert 0 <= top < bottom <= size_hw[0]
    for start, length, limit in zip(window.top_left, window.size_hw, CANVAS, strict=True):
        assert start >= 0
        assert length >= 1
        assert start + length <= limit


@pytest.mark.parametrize("size_hw", [(96, 128), (50, 200), (333, 100)])
def test_a_clean_image_is_the_one_that_is_scored(size_hw: tuple[int, int]) -> None:
    config = dataclasses.replace(STILL, scale=(0.5, 3.0), aspect=(0.5, 2.0))
    image = make.pixels(size_hw)
    augment = Augmenter(config, CANVAS, 114)
    box = [1.0, 2.0, size_hw[1] - 3.0, size_hw[0] - 4.0]
    made = augment.apply(_sample(image, [box]), augment.draw(size_hw, (0, 0, 0), framing="whole"))
    scored, placement = place(image, CANVAS, 114)
    np.testing.assert_array_equal(made.image, scored)
    there = letterbox.boxes_to_original(torch.from_numpy(made.boxes), placement).numpy()
    np.testing.assert_allclose(there, [box], atol=0.5 / placement.scale + 0.01)
    zoomed = augment(_sample(image, [box]), (0, 0, 0))
    assert not np.array_equal(zoomed.image, scored)


def test_in_the_clean_part_every_object_is_there() -> None:
    config = AugmentConfig(scale=(0.7, 3), quarter_turns=0.75, horizontal_flip=0.5, vertical_flip=0.5)
    augment = Augmenter(config, CANVAS, 114)
    sample = _sample(make.pixels((96, 128)), [[0, 0, 20, 20], [108, 0, 128, 20], [0, 76, 20, 96], [108, 76, 128, 96]])
    cut = 0
    for index in range(60):
        key = (0, 0, index)
        made = augment.apply(sample, augment.draw((96, 128), key, framing="whole"))
        assert len(made.boxes) == 4
        assert not made.is_crowd.any()
        sides = made.boxes[:, 2:] - made.boxes[:, :2]
        assert sides.std(axis=0).max() < 0.01, "all four were of one size and still are"
        cut += len(augment(sample, key).boxes) < 4
    assert cut > 20, "else nothing was put to the test"


def test_what_a_cut_leaves_of_an_object() -> None:
    window = Window(source=(50, 0, 100, 100), size_hw=(100, 50), top_left=(0, 0))
    boxes = [
        [60, 10, 90, 40],  # whole
        [30, 10, 80, 40],  # 60 % is left
        [10, 10, 60, 40],  # 20 % is left: a region to ignore
        [10, 10, 50.5, 40],  # half a pixel is left
        [0, 10, 40, 40],  # gone
        [10, 10, 60, 40],  # a crowd region of which 20 % is left
        [70, 10, 70.5, 40],  # half a pixel wide from the start
    ]
    sample = _sample(np.zeros((100, 100, 3), np.uint8), boxes, [False] * 5 + [True, False])
    made = cut_out(sample, window, min_visibility=0.3)
    assert made.labels.tolist() == [0, 1, 2, 5]
    assert made.is_crowd.tolist() == [False, False, True, True]
    assert made.boxes.tolist() == [[10, 10, 40, 40], [0, 10, 30, 40], [0, 10, 10, 40], [0, 10, 10, 40]]
    at_the_limit = cut_out(sample, window, min_visibility=0.2)
    assert at_the_limit.is_crowd.tolist() == [False, False, False, True]


def test_labels_and_flags_travel_with_their_boxes() -> None:
    boxes = [[5 + 12 * i, 10, 15 + 12 * i, 10 + 6 * (i + 1)] for i in range(9)]
    sample = _sample(make.pixels(CANVAS), boxes, [i % 2 == 0 for i in range(9)])
    config = dataclasses.replace(STILL, horizontal_flip=0.5, vertical_flip=0.5, hue=0.05)
    augment = Augmenter(config, CANVAS, 114)
    for index in range(10):
        made = augment(sample, (0, 0, index))
        height = (made.boxes[:, 3] - made.boxes[:, 1]).round()
        assert sorted(made.labels.tolist()) == list(range(9))
        np.testing.assert_array_equal(height, 6 * (made.labels + 1))
        np.testing.assert_array_equal(made.is_crowd, made.labels % 2 == 0)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_tiny_and_thin_images(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    for index in range(10):
        made = Augmenter(AugmentConfig(), CANVAS, 114)(
            _sample(make.pixels(size_hw), [[0, 0, width, height]]), (0, 0, index)
        )
        assert made.image.shape == (*CANVAS, 3)
        assert np.isfinite(made.boxes).all()


def test_import_has_no_effect_and_the_update_check_stays_off() -> None:
    code = (
        "import os, sys, detector.data.augment as augment, detector.config as config; "
        "assert 'albumentations' not in sys.modules; "
        "import socket; socket.socket.connect = None; "
        "augment.Augmenter(config.AugmentConfig(), (32, 32), 114); "
        "assert 'albumentations' in sys.modules; "
        "assert 'NO_ALBUMENTATIONS_UPDATE' not in os.environ"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
