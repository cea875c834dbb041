"""How an image lies on its canvas: scaled by one factor, at the top-left corner."""

import math

import numpy as np
from jaxtyping import Float, Integer
from torch import Tensor

from detector.geometry import boxes as box_math
from detector.types import Placement


def choose_canvas(sizes_hw: Integer[np.ndarray, "i 2"], image_size: int, multiple: int = 16) -> tuple[int, int]:
    """Canvas (height, width) whose longer side is `image_size` and whose shape wastes little on these images.

    The height follows the lower quartile of width over height and the width the upper one: landscape images alone give
    a low canvas, a mixture gives a square. Both sides are rounded up to `multiple`.
    """
    assert len(sizes_hw) > 0, "a canvas needs at least one image size"
    aspects = sizes_hw[:, 1] / sizes_hw[:, 0]
    low, high = np.quantile(aspects, (0.25, 0.75))
    height = image_size / max(1.0, float(low))
    width = image_size * min(1.0, float(high))
    return _round_up(height, multiple), _round_up(width, multiple)


def shrink(canvas_hw: tuple[int, int], factor: float, multiple: int = 16) -> tuple[int, int]:
    """Part of a canvas, both sides rounded up to `multiple`, never larger than the canvas."""
    height, width = (min(side, _round_up(side * factor, multiple)) for side in canvas_hw)
    return height, width


def fit(original_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> Placement:
    """The largest scale at which the whole image lies on the canvas."""
    height, width = original_hw
    return Placement(scale=min(canvas_hw[0] / height, canvas_hw[1] / width), original_hw=original_hw)


def resized_hw(placement: Placement, canvas_hw: tuple[int, int]) -> tuple[int, int]:
    """Whole pixels that the scaled image takes: the nearest, at least one, never more than the canvas has."""
    height, width = (math.floor(side * placement.scale + 0.5) for side in placement.original_hw)
    return min(max(height, 1), canvas_hw[0]), min(max(width, 1), canvas_hw[1])


def boxes_to_canvas(boxes: Float[Tensor, "*n 4"], placement: Placement) -> Float[Tensor, "*n 4"]:
    """From pixels of the original image to pixels of the canvas."""
    return (boxes.double() * placement.scale).to(boxes.dtype)


def boxes_to_original(boxes: Float[Tensor, "*n 4"], placement: Placement) -> Float[Tensor, "*n 4"]:
    """From pixels of the canvas to pixels of the original image, clipped to that image."""
    original = (boxes.double() / placement.scale).to(boxes.dtype)
    return box_math.clip(original, placement.original_hw)


def _round_up(side: float, multiple: int) -> int:
    # 320 / (640 / 480) is 240 and a little more in floating point; a thousandth of a pixel is not worth a multiple.
    return max(1, math.ceil((side - 1e-3) / multiple)) * multiple
