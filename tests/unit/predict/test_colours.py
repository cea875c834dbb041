from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.predict import colours
from detector.predict.colours import Colour

# Machado et al. 2009, severity 1.0, on linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: Colour) -> np.ndarray:
    c = np.array(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour: Colour, sight: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ (sight @ linear(colour)).clip(0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_first_twenty_classes_are_told_apart(sight: str) -> None:
    seen = [lab(colours.of_label(label), SIGHTS[sight]) for label in range(20)]
    # A difference of 2.3 is just noticeable.
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12


def test_eighty_classes_have_eighty_colours() -> None:
    assert len({colours.of_label(label) for label in range(80)}) == 80


def test_neighbours_are_told_apart_among_eighty() -> None:
    seen = [lab(colours.of_label(label), SIGHTS["normal"]) for label in range(80)]
    assert min(np.linalg.norm(a - b) for a, b in pairwise(seen)) > 25


@given(st.integers(0, 10**6))
def test_every_label_has_a_colour(label: int) -> None:
    assert all(0 <= channel <= 255 for channel in colours.of_label(label))
    assert colours.of_label(label) == colours.of_label(label)


channel = st.integers(0, 255)


@given(st.tuples(channel, channel, channel))
def test_text_is_readable_on_any_colour(background: Colour) -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(weights @ linear(c)) for c in (background, colours.text_on(background)))
    assert (high + 0.05) / (low + 0.05) >= 4.5
