"""Put an image on its canvas."""

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.geometry import letterbox
from detector.types import Placement


def place(image: NDArray[np.uint8], canvas_hw: tuple[int, int], padding: int) -> tuple[NDArray[np.uint8], Placement]:
    """Scale the image to fit, lay it at the top-left corner and fill the rest with the grey `padding`."""
    height, width = image.shape[:2]
    placement = letterbox.fit((height, width), canvas_hw)
    resized = resize(image, letterbox.resized_hw(placement, canvas_hw))
    return paste(resized, canvas_hw, (0, 0), padding), placement


def resize(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Average over areas when shrinking, interpolate when growing."""
    height, width = size_hw
    if image.shape[:2] == size_hw:
        return image
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def paste(
    image: NDArray[np.uint8], canvas_hw: tuple[int, int], top_left: tuple[int, int], padding: int
) -> NDArray[np.uint8]:
    """A grey canvas with the image on it."""
    top, left = top_left
    height, width = image.shape[:2]
    canvas = np.full((*canvas_hw, 3), padding, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas
