import numpy as np
import pytest
import torch

from detector.data.letterbox import place, resize
from detector.geometry import letterbox
from tests.unit.data import make


def test_the_image_lies_at_the_top_left_and_the_rest_is_grey() -> None:
    image = np.full((30, 80, 3), 200, np.uint8)
    canvas, placement = place(image, (64, 96), 114)
    assert canvas.shape == (64, 96, 3)
    assert placement == letterbox.fit((30, 80), (64, 96))
    assert (canvas[:36] == 200).all()
    assert (canvas[36:] == 114).all()


def test_an_image_of_the_canvas_size_is_untouched() -> None:
    image = make.pixels((64, 96))
    np.testing.assert_array_equal(place(image, (64, 96), 114)[0], image)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 5000), (5000, 1), (3, 700), (33, 31), (640, 481)])
@pytest.mark.parametrize("canvas_hw", [(64, 96), (96, 64), (16, 16)])
def test_any_shape_fits(size_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> None:
    canvas, placement = place(np.full((*size_hw, 3), 7, np.uint8), canvas_hw, 114)
    height, width = letterbox.resized_hw(placement, canvas_hw)
    assert canvas.shape == (*canvas_hw, 3)
    assert (canvas[:height, :width] == 7).all()
    assert (canvas[height:] == 114).all()
    assert (canvas[:, width:] == 114).all()


def test_pixels_follow_the_scale_of_the_boxes() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[40:120, 90:210] = 255
    canvas, placement = place(image, (96, 144), 0)
    rows, columns = np.nonzero(canvas[:, :, 0] > 127)
    found = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
    expected = letterbox.boxes_to_canvas(torch.tensor([[90.0, 40.0, 210.0, 120.0]]), placement)
    assert (found - expected).abs().max() <= 1


def test_shrinking_averages_so_that_fine_lines_do_not_vanish() -> None:
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[:, ::4] = 240
    assert abs(int(resize(stripes, (10, 10)).mean()) - 60) <= 1
    assert resize(stripes, (10, 10)).std() < 2
