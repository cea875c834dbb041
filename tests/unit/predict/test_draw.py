from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.predict import colours, draw
from detector.types import Detections

GREY = 200


def picture(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def detections(boxes: list[list[float]], labels: list[int], names: list[str] | None = None) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.3, len(boxes)),
        labels=torch.tensor(labels, dtype=torch.int64),
        names=tuple(names if names is not None else [f"class {label}" for label in labels]),
    )


def has(pixels: NDArray[np.uint8], colour: colours.Colour) -> NDArray[np.bool_]:
    return (pixels == colour).all(axis=-1)


def painted(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (pixels != GREY).any(axis=-1)


def filled_rectangle(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def test_the_input_is_not_drawn_into() -> None:
    image = picture(100, 120)
    drawn = draw.draw(image, detections([[10, 20, 90, 80]], [0]))
    assert (image == GREY).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn.flags.writeable or drawn is not image


def test_nothing_found_changes_nothing() -> None:
    assert (draw.draw(picture(50, 60), detections([], [])) == GREY).all()


def test_the_outline_covers_the_box_and_not_its_inside() -> None:
    drawn = draw.draw(picture(200, 200), detections([[40, 60, 140, 180]], [1]))
    box = has(drawn, colours.of_label(1))
    assert box[100:179, 40].all()
    assert box[179, 41:139].all()
    assert box[100:179, 139].all()
    assert not painted(drawn)[100:170, 50:130].any()
    assert not painted(drawn)[:, :39].any()
    assert not painted(drawn)[181:].any()


def test_the_best_lies_on_top() -> None:
    box = [40.0, 60, 140, 180]
    drawn = draw.draw(picture(200, 200), detections([box, box], [3, 1]))
    assert has(drawn, colours.of_label(3))[100:179, 40].all()


def test_colour_depends_on_the_label_alone() -> None:
    first = draw.draw(picture(200, 200), detections([[10, 50, 90, 150]], [4], ["x"]))
    second = draw.draw(picture(300, 500), detections([[0, 0, 9, 9], [10, 50, 90, 150]], [2, 4], ["x", "y"]))
    assert has(first, colours.of_label(4)).any()
    assert has(second, colours.of_label(4)).any()
    assert not has(first, colours.of_label(2)).any()


def test_line_and_text_grow_with_the_picture() -> None:
    small = draw.draw(picture(240, 320), detections([[40, 60, 200, 180]], [0]))
    large = draw.draw(picture(2400, 3200), detections([[400, 600, 2000, 1800]], [0]))
    line = [int(painted(p)[p.shape[0] // 2].sum()) for p in (small, large)]
    assert line[0] == 2
    assert line[1] >= 8 * line[0]
    heights = [int(painted(p).any(axis=1).argmax()) for p in (small, large)]
    assert 60 - heights[0] >= 10
    assert 600 - heights[1] >= 60


@pytest.mark.parametrize(
    "box",
    [[0, 0, 60, 50], [150, 0, 200, 40], [0, 100, 60, 150], [160, 110, 200, 150], [0, 0, 200, 150], [195, 60, 200, 70]],
)
def test_the_label_stays_inside_at_every_edge(box: list[float]) -> None:
    drawn = draw.draw(picture(150, 200), detections([box], [0], ["Platelets"]))
    text = (drawn > GREY + 10).all(axis=-1)  # white, as are only letters on this blue
    assert text.sum() > 60
    x0, y0, x1, y1 = filled_rectangle(text)
    # All letters are there, so the label was moved and not cut.
    assert x1 - x0 > 50
    assert 0 < x0 < x1 < 199
    assert 0 < y0 < y1 < 149


def test_labels_do_not_cover_one_another() -> None:
    boxes = [[100.0 + 25 * i, 100, 120 + 25 * i, 250] for i in range(3)]
    drawn = draw.draw(picture(400, 400), detections(boxes, [0, 1, 2], ["Platelets"] * 3))
    for label in range(3):
        # Only whole labels have rows, above and below the letters, as long as this.
        assert (has(drawn, colours.of_label(label)).sum(axis=1) > 75).sum() >= 3


def test_a_label_avoids_a_small_object() -> None:
    above = [100, 80, 118, 98]
    drawn = draw.draw(picture(300, 300), detections([[100, 100, 200, 200], above], [0, 1], ["Platelets", "b"]))
    assert not has(drawn, colours.of_label(0))[82:96, 102:116].any()


def crowd(count: int) -> Detections:
    boxes = [
        [20.0 + 40 * (i % 12), 20.0 + 40 * (i // 12), 50.0 + 40 * (i % 12), 50.0 + 40 * (i // 12)] for i in range(count)
    ]
    return detections(boxes, [0] * count, ["Platelets"] * count)


def test_a_crowded_picture_gets_smaller_labels() -> None:
    def text_pixels(found: Detections) -> float:
        drawn = draw.draw(picture(500, 520), found)
        return float(has(drawn, colours.text_on(colours.of_label(0))).sum()) / len(found)

    assert text_pixels(crowd(draw.CROWDED + 1)) < 0.6 * text_pixels(crowd(draw.CROWDED))


def test_crowded_small_objects_stay_visible() -> None:
    found = crowd(100)
    drawn = draw.draw(picture(500, 520), found)
    for x0, y0, x1, y1 in found.boxes.int().tolist():
        assert painted(drawn)[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].mean() <= 0.5


def test_a_crowded_picture_leaves_the_score_out() -> None:
    def changes_with_the_score(found: Detections) -> bool:
        other = replace(found, scores=found.scores / 2)
        return bool((draw.draw(picture(500, 520), found) != draw.draw(picture(500, 520), other)).any())

    assert changes_with_the_score(crowd(draw.CROWDED))
    assert not changes_with_the_score(crowd(draw.CROWDED + 1))


def test_objects_side_by_side_stay_visible() -> None:
    boxes = [
        [20.0 + 13 * (i % 10), 20.0 + 13 * (i // 10), 32.0 + 13 * (i % 10), 32.0 + 13 * (i // 10)] for i in range(100)
    ]
    drawn = draw.draw(picture(170, 170), detections(boxes, [0] * 100, ["RBC"] * 100))
    for x0, y0, x1, y1 in np.array(boxes, int).tolist():
        assert painted(drawn)[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].mean() <= 0.7


def test_a_small_box_is_not_filled_by_its_line() -> None:
    drawn = draw.draw(picture(3000, 3000), detections([[100, 100, 120, 120]], [0]))
    assert painted(drawn)[100, 100:120].all()
    assert not painted(drawn)[105:115, 105:115].any()


def test_what_lies_outside_or_is_not_finite_is_left_out() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = [[nan, 0, 10, 10], [0, 0, inf, 10], [300, 10, 400, 50], [-50, -50, -10, -10]]
    assert (draw.draw(picture(100, 100), detections(boxes, [0] * 4)) == GREY).all()


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    boxes=st.lists(st.lists(st.floats(-100, 200, width=32), min_size=4, max_size=4), max_size=30),
    name=st.text(st.characters(codec=None), max_size=50),
)
def test_nothing_breaks_it(size: tuple[int, int], boxes: list[list[float]], name: str) -> None:
    drawn = draw.draw(picture(*size), detections(boxes, list(range(len(boxes))), [name] * len(boxes)))
    assert drawn.shape == (*size, 3)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_a_narrow_picture_gets_a_shorter_label(width: int) -> None:
    """Wide enough for a few letters, but not for a long name with its score."""
    found = detections([[0, 40, 40, 80]], [0], ["red blood cell of the horse"])
    drawn = draw.draw(picture(200, width), found)
    left, top, right, bottom = filled_rectangle(has(drawn, colours.of_label(0))[:40])
    assert right - left > 15
    assert bottom - top > 8
    assert right < width


def test_what_a_label_may_say() -> None:
    assert list(draw._texts("horses", 0.5, with_score=True)) == ["horses 0.50", "horses", "ho...", "h..."]
    assert next(draw._texts("x" * 40, 0.5, with_score=False)) == "x" * 29 + "..."
