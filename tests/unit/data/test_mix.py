"""Several images in one sample."""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.config import AugmentConfig, CopyPasteConfig, DataConfig, RunConfig
from detector.data import coco, mix
from detector.data.augment import Augmenter, Change, Window
from detector.data.batch import Item
from detector.data.cache import ImageCache
from detector.data.columns import Columns
from detector.data.dataset import Key, TrainingSet
from detector.data.decode import read_image
from detector.data.mix import CutOut, Mixer, Tile
from detector.types import Preprocess, Sample
from tests.unit.data import make

CANVAS = (96, 128)
PREPROCESS = Preprocess(canvas_hw=CANVAS)
# Of the objects, by label; a pixel is told by which of its channels are bright.
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
FRAMES = AugmentConfig(
    vertical_flip=0.5, quarter_turns=0.5, scale=(0.7, 1.3), brightness=0, contrast=0, saturation=0, hue=0
)  # fmt: skip
HARD = CopyPasteConfig(probability=1.0, feather=0.0, overlap=0.0)


def config(**changes: object) -> AugmentConfig:
    return dataclasses.replace(FRAMES, **changes)  # type: ignore[arg-type]


MIXED = config(mosaic=0.7, mixup=0.5, copy_paste=CopyPasteConfig(probability=0.7))


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Columns:
    """Three images of two objects each; every object is a rectangle of the colour of its class, on black."""
    folder = tmp_path_factory.mktemp("colours")
    images, annotations = [], []
    for number, size_hw in enumerate(((200, 260), (240, 180), (90, 120))):
        pixels = np.zeros((*size_hw, 3), np.uint8)
        for k in range(2):
            label = 2 * number + k
            place = np.array([0.1 + 0.45 * k, 0.2 + 0.1 * k, 0.3, 0.4]) * [*size_hw[::-1], *size_hw[::-1]]
            x, y, w, h = place.round().astype(int).tolist()
            pixels[y : y + h, x : x + w] = COLOURS[label]
            annotations.append(
                make.annotation(label + 1, image_id=number + 1, category_id=label + 1, bbox=[x, y, w, h], area=w * h)
            )
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg", quality=98, subsampling=0)
        images.append(make.image(number + 1, f"{number}.jpg", size_hw))
    categories = [{"id": k + 1, "name": f"c{k}"} for k in range(len(COLOURS))]
    return coco.read(*make.write(folder, make.tree(images=images, annotations=annotations, categories=categories)))


def sample_of(data: TrainingSet, key: Key) -> Sample:
    item = data[key]
    assert isinstance(item, Item)
    assert item.sample is not None
    return item.sample


def classes(image: np.ndarray) -> np.ndarray:
    """Label of each pixel, -1 where there is no object."""
    table = np.full(8, -1)
    for label, colour in enumerate(COLOURS):
        table[(np.array(colour) > 0) @ [1, 2, 4]] = label
    return table[(image >= 128) @ np.array([1, 2, 4])]


def assert_boxes_are_where_the_colours_are(sample: Sample) -> None:
    found = classes(sample.image)
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= np.array([CANVAS[1], CANVAS[0]] * 2)).all()
    inside_of_any = np.full((len(COLOURS), *CANVAS), fill_value=False)
    for box, label, is_crowd in zip(sample.boxes, sample.labels, sample.is_crowd, strict=True):
        low, high = np.ceil(box[:2] + 1.5).astype(int), np.floor(box[2:] - 1.5).astype(int)
        # What is no object any more may lie under one that was pasted.
        assert is_crowd or (found[low[1] : high[1], low[0] : high[0]] == label).all()
        low, high = np.maximum(np.floor(box[:2] - 1.5), 0).astype(int), np.ceil(box[2:] + 1.5).astype(int)
        inside_of_any[label, low[1] : high[1], low[0] : high[0]] = True
    for label in range(len(COLOURS)):
        thick = (
            cv2.erode((found == label).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        )  # less than a pixel has no box
        assert not (thick & ~inside_of_any[label]).any()


@pytest.mark.parametrize("kind", ["mosaic", "copy_paste", "both"])
@pytest.mark.parametrize("cached", [False, True])
def test_an_object_of_any_image_is_found_again_by_its_colour(
    kind: str, cached: bool, columns: Columns, tmp_path: Path
) -> None:
    changes = {"mosaic": {"mosaic": 1.0}, "copy_paste": {"copy_paste": HARD}}
    made = config(**(changes["mosaic"] | changes["copy_paste"] if kind == "both" else changes[kind]))
    run = RunConfig(augment=made, data=DataConfig(cache="disk", cache_folder=str(tmp_path)))
    data = TrainingSet(columns, PREPROCESS, made, 0, ImageCache.open(columns, run, CANVAS) if cached else None)
    samples = [sample_of(data, Key(epoch, row, CANVAS)) for epoch in range(12) for row in range(3)]
    for sample in samples:
        assert_boxes_are_where_the_colours_are(sample)
    assert len(np.unique(np.concatenate([sample.labels for sample in samples]))) == len(COLOURS)
    assert max(len(sample.labels) for sample in samples) > 2


def test_kept_pictures_give_the_same_samples(columns: Columns, tmp_path: Path) -> None:
    made = config(mosaic=0.5, mixup=0.5, copy_paste=HARD)
    run = RunConfig(augment=made, data=DataConfig(cache="disk", cache_folder=str(tmp_path)))
    cache = ImageCache.open(columns, run, CANVAS)
    assert cache is not None
    kept = cache.image(0, lambda: read_image(columns.path(0)))
    assert kept is not None
    assert kept.shape[0] < 200
    plain, cached = (TrainingSet(columns, PREPROCESS, made, 1, one) for one in (None, cache))
    same = 0
    for epoch in range(40):
        first, second = (sample_of(data, Key(epoch, 1, CANVAS)) for data in (plain, cached))
        if first.labels.tolist() == second.labels.tolist():
            same += np.abs(first.boxes - second.boxes).max(initial=0) < 3
    assert same > 32  # where a place for an object just does not do, the next is far away


def test_what_a_seam_leaves_of_an_object_follows_the_smallest_visible_share(columns: Columns) -> None:
    for least in (0.0, 0.5, 1.0):
        data = TrainingSet(columns, PREPROCESS, config(mosaic=1.0, min_visibility=least), 0)
        flags = [sample_of(data, Key(epoch, 0, CANVAS)).is_crowd for epoch in range(12)]
        share = np.concatenate(flags).mean()
        assert share == 0 if least == 0 else 0.05 < share < 1


def test_each_of_the_four_has_random_numbers_of_its_own(columns: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Change] = []
    draw = Augmenter.draw

    def noting(*args: Any, **kwargs: Any) -> Change:
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(Augmenter, "draw", noting)
    dataset = TrainingSet(columns, PREPROCESS, config(mosaic=1.0), 3)
    for epoch in range(40):
        sample_of(dataset, Key(epoch, 0, CANVAS))
    flips = np.array([change.flip_horizontal for change in drawn], float).reshape(40, 4)
    assert flips.mean() == pytest.approx(0.5, abs=0.15)
    assert np.abs(np.corrcoef(flips.T) - np.eye(4)).max() < 0.5


def test_what_is_pasted_lies_on_pictures_and_not_on_grey() -> None:
    window = Window(source=(0, 0, 40, 30), size_hw=(30, 40), top_left=(5, 7))
    change = Change(
        window=window, shown_hw=(48, 64), quarter_turns=1, flip_horizontal=False, flip_vertical=False, colours=None
    )
    tile = Tile(hw=(48, 64), top_left=(10, 20))
    assert mix.pictures([tile], [change]) == [(27, 15, 57, 55)]  # turned: 30 wide and 40 high


def test_the_four_touch_the_point_where_they_meet(columns: Columns) -> None:
    data = TrainingSet(columns, PREPROCESS, config(mosaic=1.0, mosaic_scale=(0.2, 0.2)), 0)
    mixer = Mixer(columns, config(mosaic=1.0))
    places = []
    for epoch in range(20):
        tiles = mixer.plan((0, epoch, 0), CANVAS, is_clean=False).tiles
        y, x = tiles[0].hw
        places.append((y / CANVAS[0], x / CANVAS[1]))
        image = sample_of(data, Key(epoch, 0, CANVAS)).image
        around = image[y - 2 : y + 2, x - 2 : x + 2]
        assert (np.abs(around.astype(int) - 114).max(axis=2) > 30).all()
    assert 0.19 < np.min(places) < 0.35 < 0.65 < np.max(places) < 0.81


def test_mixup_shows_both_and_has_the_objects_of_both(columns: Columns) -> None:
    made = config(mixup=1.0)
    data, plain = TrainingSet(columns, PREPROCESS, made, 0), TrainingSet(columns, PREPROCESS, FRAMES, 0)
    mixer = Mixer(columns, made)
    shares = []
    for epoch in range(10):
        blend = mixer.plan((0, epoch, 1), CANVAS, is_clean=False).blend
        assert blend is not None
        first, both = sample_of(plain, Key(epoch, 1, CANVAS)), sample_of(data, Key(epoch, 1, CANVAS))
        other = (both.image - blend.share * first.image.astype(float)) / (1 - blend.share)
        assert -2 < other.min() <= other.max() < 257  # an image
        np.testing.assert_array_equal(both.boxes[: len(first.boxes)], first.boxes)
        assert_boxes_are_where_the_colours_are(
            Sample(
                image=other.round().clip(0, 255).astype(np.uint8),
                boxes=both.boxes[len(first.boxes) :],
                labels=both.labels[len(first.boxes) :],
                is_crowd=both.is_crowd[len(first.boxes) :],
            )
        )
        shares.append(blend.share)
    assert 0.3 < min(shares) < 0.5 < max(shares) < 0.7


# Pasting


def rectangles(draw: st.DrawFn, count: int, limit_hw: tuple[int, int]) -> list[list[int]]:
    sides = [draw(st.tuples(st.integers(4, 40), st.integers(4, 40))) for _ in range(count)]
    corners = [
        (draw(st.integers(0, limit_hw[1] - width)), draw(st.integers(0, limit_hw[0] - height)))
        for width, height in sides
    ]
    return [[x, y, x + w, y + h] for (x, y), (w, h) in zip(corners, sides, strict=True)]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Sample, list[CutOut]]:
    """Objects that do not meet, and others to paste, each of a level of its own."""
    boxes: list[list[int]] = []
    for box in rectangles(draw, draw(st.integers(0, 5)), CANVAS):
        if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes):
            boxes.append(box)
    image = np.zeros((*CANVAS, 3), np.uint8)
    for label, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = 10 + label
    sizes = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=4))
    return flat(image, boxes), [patch(hw, 10 + len(boxes) + k) for k, hw in enumerate(sizes)]


def flat(image: np.ndarray, boxes: list[list[int]], first: int = 0) -> Sample:
    return Sample(
        image=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(first, first + len(boxes)),
        is_crowd=np.zeros(len(boxes), np.bool_),
    )


def patch(size_hw: tuple[int, int], level: int) -> CutOut:
    sample = flat(np.full((*size_hw, 3), level, np.uint8), [[0, 0, size_hw[1], size_hw[0]]], level - 10)
    return CutOut(sample=sample, box=sample.boxes[0])


WHOLE = [(0, 0, CANVAS[1], CANVAS[0])]


@settings(max_examples=60)
@given(scene=scenes(), overlap=st.sampled_from([0.0, 0.2, 0.6]), seed=st.integers(0, 99))
def test_a_box_is_what_can_be_seen_of_an_object(scene: tuple[Sample, list[CutOut]], overlap: float, seed: int) -> None:
    sample, cuts = scene
    before = sample.image.copy()
    made = config(copy_paste=dataclasses.replace(HARD, overlap=overlap))
    pasted = mix.copy_paste(sample, cuts, WHOLE, np.random.default_rng(seed), made)
    np.testing.assert_array_equal(sample.image, before)
    every = [sample, *(cut.sample for cut in cuts)]
    sizes = np.concatenate([(one.boxes[:, 2:] - one.boxes[:, :2]).prod(axis=1) for one in every])
    levels = pasted.image[:, :, 0]
    assert sorted(set(np.unique(levels)) - {0}) == sorted(10 + pasted.labels)  # who has a box is seen, and who is seen
    for box, label in zip(pasted.boxes, pasted.labels, strict=True):
        rows, places = np.nonzero(levels == 10 + label)
        seen = np.array([places.min(), rows.min(), places.max() + 1, rows.max() + 1])
        if len(cuts) == 1:
            assert seen.tolist() == box.tolist()
        else:  # a side that only two together hide is not noticed
            assert (seen[:2] >= box[:2]).all()
            assert (seen[2:] <= box[2:]).all()
        assert len(rows) >= (1 - overlap) * sizes[label] - 1e-3


@given(corner=st.tuples(st.integers(0, 60), st.integers(0, 50)), size=st.tuples(st.integers(1, 60), st.integers(1, 40)))
def test_an_object_of_which_a_side_is_hidden_has_a_shorter_box(corner: tuple[int, int], size: tuple[int, int]) -> None:
    image = np.zeros((*CANVAS, 3), np.uint8)
    image[20:40, 20:50] = 10
    (left, top), (width, height) = corner, size
    made = config(copy_paste=dataclasses.replace(HARD, overlap=1.0))
    area = (left, top, left + width, top + height)  # the one place where it fits
    pasted = mix.copy_paste(
        flat(image, [[20, 20, 50, 40]]), [patch((height, width), 11)], [area], np.random.default_rng(0), made
    )
    assert pasted.boxes[-1].tolist() == list(area)
    rows, places = np.nonzero(pasted.image[:, :, 0] == 10)
    if len(rows) == 0:
        assert pasted.labels.tolist() == [1]
    else:
        assert pasted.boxes[0].tolist() == [places.min(), rows.min(), places.max() + 1, rows.max() + 1]
        assert pasted.is_crowd[0] == (len(rows) < (0.3 - 1e-9) * 600)


def test_what_several_hide_of_an_object_is_counted_together() -> None:
    image = np.zeros((*CANVAS, 3), np.uint8)
    image[:, :20] = 10
    made = config(copy_paste=dataclasses.replace(HARD, overlap=0.2))
    # Each hides 8 of 192 squares of its object and shares a fifth of its own area with it: four may, and no fifth.
    cuts = [patch((10, 40), 11 + k) for k in range(9)]
    for seed in range(5):
        pasted = mix.copy_paste(
            flat(image, [[0, 0, 20, 96]]), cuts, [(12, 0, 52, 96)], np.random.default_rng(seed), made
        )
        assert 3 <= len(pasted.labels) - 1 <= 4
        assert (pasted.image[:, :, 0] == 10).sum() >= 0.8 * 20 * 96


def test_a_hidden_object_is_a_region_to_ignore_and_one_without_a_pixel_is_gone() -> None:
    image = np.zeros((*CANVAS, 3), np.uint8)
    boxes = [[0, 0, 128, 40], [0, 40, 128, 96]]
    made = config(copy_paste=dataclasses.replace(HARD, overlap=1.0), min_visibility=0.9)
    rng = np.random.default_rng(0)
    pasted = mix.copy_paste(flat(image, boxes), [patch((40, 128), 12)], [(0, 0, 128, 40)], rng, made)
    assert pasted.labels.tolist() == [1, 2]
    assert pasted.is_crowd.tolist() == [False, False]
    half = mix.copy_paste(flat(image, boxes), [patch((20, 128), 12)], [(0, 0, 128, 20)], rng, made)
    assert half.labels.tolist() == [0, 1, 2]
    assert half.is_crowd.tolist() == [True, False, False]
    assert half.boxes[0].tolist() == [0, 20, 128, 40]


def test_where_there_is_no_place_nothing_is_pasted() -> None:
    image = np.zeros((*CANVAS, 3), np.uint8)
    full = flat(image, [[0, 0, 128, 96]])
    made = config(copy_paste=HARD)
    for area, size in ((WHOLE, (30, 30)), ([(0, 0, 20, 20)], (30, 10))):
        pasted = mix.copy_paste(full, [patch(size, 12)], area, np.random.default_rng(0), made)
        np.testing.assert_array_equal(pasted.image, image)
        assert pasted.labels.tolist() == [0]
    small = [patch((5, 5), 12)]
    half = config(copy_paste=dataclasses.replace(HARD, overlap=0.5))  # of the smaller one
    assert mix.copy_paste(full, small, WHOLE, np.random.default_rng(0), half).labels.tolist() == [0]
    grounds = [(0, 0, 29, 96), (60, 10, 100, 50), (0, 0, 128, 29)]  # it fits into one of the three
    left, top, right, bottom = mix.copy_paste(
        flat(image, []), [patch((30, 30), 12)], grounds, np.random.default_rng(0), made
    ).boxes[0]
    assert 60 <= left < right <= 100
    assert 10 <= top < bottom <= 50
    crowd = dataclasses.replace(full, is_crowd=np.array([True]))
    assert len(mix.copy_paste(crowd, [patch((30, 30), 12)], WHOLE, np.random.default_rng(0), made).labels) == 2


def test_a_soft_border_lies_outside_the_object() -> None:
    cut = flat(np.full((40, 60, 3), 200, np.uint8), [[10, 8, 50, 32]])
    blank = flat(np.zeros((*CANVAS, 3), np.uint8), [])
    pasted = mix.copy_paste(
        blank, [CutOut(sample=cut, box=cut.boxes[0])], WHOLE, np.random.default_rng(0), config(copy_paste=HARD)
    )
    left, top, right, bottom = pasted.boxes[0].astype(int)
    levels = pasted.image[:, :, 0].astype(int)
    assert (levels[top:bottom, left:right] == 200).all()
    row = levels[(top + bottom) // 2, left - 10 : left]
    assert (np.diff(row) > 0).all()
    assert row[0] < 20
    assert levels[top - 8 : bottom + 8, left - 10 : right + 10].sum() == levels.sum()


def test_objects_to_paste_are_whole_and_their_classes_even(tmp_path: Path) -> None:
    boxes = [[5 + 2 * k, 6, 20, 10] for k in range(9)]  # of class 1
    found = [make.annotation(k + 1, bbox=box) for k, box in enumerate(boxes)]
    found += [make.annotation(20, bbox=[10, 20, 9, 9], category_id=2), make.annotation(21, bbox=[9, 0, 9, 9])]
    found += [make.annotation(22, bbox=[40, 9, 20, 9]), make.annotation(23, bbox=[9, 9, 9, 9], iscrowd=1)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    tree = make.tree(images=[make.image(), make.image(2, "a.png")], annotations=found, categories=categories)
    columns = coco.read(*make.write(tmp_path, tree))

    def first(even: bool) -> list[int]:
        made = config(copy_paste=CopyPasteConfig(probability=1.0, objects=4, even_classes=even))
        donors = [Mixer(columns, made).plan((0, 0, index), CANVAS, is_clean=False).donor for index in range(300)]
        for donor in donors:
            assert donor is not None
            assert donor.row == 0
            assert 1 <= len(donor.objects) == len(set(donor.objects)) <= 4
            assert max(donor.objects) <= 9
        return [donor.objects[0] for donor in donors if donor is not None]

    rare = [np.mean([columns.labels[one] == 1 for one in first(even)]) for even in (True, False)]
    assert rare == pytest.approx([0.5, 0.1], abs=0.09)
    empty = coco.read(*make.write(tmp_path, make.tree(annotations=[]), "empty.json"))
    assert Mixer(empty, MIXED).plan((0, 0, 0), CANVAS, is_clean=False).donor is None


# All three


def test_a_clean_sample_is_the_one_without_mixing(columns: Columns) -> None:
    mixed, plain = TrainingSet(columns, PREPROCESS, MIXED, 3), TrainingSet(columns, PREPROCESS, FRAMES, 3)
    differ = 0
    for epoch in range(4):
        for row in range(3):
            expected = sample_of(plain, Key(epoch, row, CANVAS, is_clean=True))
            clean = sample_of(mixed, Key(epoch, row, CANVAS, is_clean=True))
            np.testing.assert_array_equal(clean.image, expected.image)
            np.testing.assert_array_equal(clean.boxes, expected.boxes)
            differ += not np.array_equal(sample_of(mixed, Key(epoch, row, CANVAS)).image, expected.image)
    assert differ >= 8


def test_each_is_drawn_on_its_own_and_as_often_as_it_says(columns: Columns) -> None:
    plans = [Mixer(columns, MIXED).plan((0, 1, index), CANVAS, is_clean=False) for index in range(400)]
    drawn = np.array([(len(plan.tiles) == 4, plan.donor is not None, plan.blend is not None) for plan in plans], float)
    assert drawn.mean(axis=0) == pytest.approx([0.7, 0.7, 0.5], abs=0.07)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.15
    alone = Mixer(columns, dataclasses.replace(MIXED, mixup=0.0, copy_paste=CopyPasteConfig()))
    assert [alone.plan((0, 1, k), CANVAS, is_clean=False).tiles for k in range(400)] == [p.tiles for p in plans]
    partners = np.bincount([tile.row for plan in plans for tile in plan.tiles[1:] if tile.row is not None], minlength=3)
    assert partners.min() > 0.8 * partners.mean()


def test_the_most_images_that_a_sample_is_made_of() -> None:
    assert [mix.most_images(made) for made in (FRAMES, config(mosaic=1), config(mixup=1), MIXED)] == [1, 4, 2, 6]
