import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.geometry import letterbox

SIZE = st.tuples(st.integers(1, 4096), st.integers(1, 4096))


@pytest.mark.parametrize(
    ("sizes", "image_size", "expected"),
    [
        ([(480, 640)], 320, (240, 320)),
        ([(640, 480)] * 5, 320, (320, 240)),
        ([(480, 640), (640, 480)] * 4, 320, (320, 320)),
        ([(480, 640)] * 9 + [(640, 480)], 640, (480, 640)),  # one in ten does not decide
        ([(500, 500)], 100, (112, 112)),
        ([(1, 5000)], 320, (16, 320)),
        ([(5000, 1)], 320, (320, 16)),
        ([(720, 1280)], 640, (368, 640)),
        ([(260, 300)], 480, (416, 480)),  # 416.00000000000006 in floating point
    ],
)
def test_choose_canvas(sizes: list[tuple[int, int]], image_size: int, expected: tuple[int, int]) -> None:
    assert letterbox.choose_canvas(np.array(sizes), image_size) == expected


@given(st.lists(SIZE, min_size=1, max_size=8), st.integers(64, 4096), st.sampled_from([1, 16, 32, 128]))
def test_canvas_is_a_multiple_and_its_longer_side_is_the_image_size(
    sizes: list[tuple[int, int]], image_size: int, multiple: int
) -> None:
    canvas = letterbox.choose_canvas(np.array(sizes), image_size, multiple)
    rounded_up = -(-image_size // multiple) * multiple
    assert all(side % multiple == 0 and multiple <= side <= rounded_up for side in canvas)
    assert max(canvas) == rounded_up


@given(SIZE, SIZE)
def test_fitted_image_lies_on_the_canvas_and_touches_it(original: tuple[int, int], canvas: tuple[int, int]) -> None:
    placement = letterbox.fit(original, canvas)
    resized = letterbox.resized_hw(placement, canvas)
    assert all(1 <= side <= limit for side, limit in zip(resized, canvas, strict=True))
    assert any(side == limit for side, limit in zip(resized, canvas, strict=True))
    assert all(abs(r - o * placement.scale) <= 0.5 + 1e-6 or r == 1 for r, o in zip(resized, original, strict=True))


def test_fit_by_hand() -> None:
    placement = letterbox.fit((480, 640), (320, 320))
    assert placement.scale == 0.5
    assert placement.original_hw == (480, 640)
    assert letterbox.resized_hw(placement, (320, 320)) == (240, 320)
    assert letterbox.resized_hw(letterbox.fit((1, 5000), (320, 320)), (320, 320)) == (1, 320)


@given(SIZE, SIZE, st.tuples(*[st.floats(0, 1)] * 4))
def test_boxes_round_trip_to_a_thousandth_of_a_pixel(
    original: tuple[int, int], canvas: tuple[int, int], corners: tuple[float, float, float, float]
) -> None:
    height, width = original
    unit = torch.tensor([corners])
    box = unit.reshape(1, 2, 2).sort(dim=1).values.reshape(1, 4) * torch.tensor([width, height, width, height])
    placement = letterbox.fit(original, canvas)
    back = letterbox.boxes_to_original(letterbox.boxes_to_canvas(box, placement), placement)
    assert (back - box).abs().max() <= 1e-3


def test_boxes_scale_by_one_factor_and_are_clipped_to_the_original() -> None:
    placement = letterbox.fit((100, 200), (50, 400))
    box = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    assert letterbox.boxes_to_canvas(box, placement).tolist() == [[5, 10, 15, 20]]
    assert letterbox.boxes_to_original(torch.tensor([[-5.0, 10.0, 400.0, 60.0]]), placement).tolist() == [
        [0, 20, 200, 100]
    ]
