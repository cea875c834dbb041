import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_convert

from detector.geometry import priors

STRIDES = (8, 16, 32, 64, 128)
SCALES = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    "canvas_hw", [(256, 256), (240, 320), (320, 240), (800, 1088), (608, 800), (80, 400), (8, 8), (136, 1000)]
)
def test_corner_anchoring_is_torchvisions_retinanet(canvas_hw: tuple[int, int]) -> None:
    sizes = tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in [32, 64, 128, 256, 512])
    reference = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    features = [torch.zeros(1, 1, *(math.ceil(side / stride) for side in canvas_hw)) for stride in STRIDES]
    expected = reference(ImageList(torch.zeros(1, 3, *canvas_hw), [canvas_hw]), features)[0]

    made = priors.make(canvas_hw, STRIDES, SCALES, RATIOS, "corner")

    assert torch.equal(made.boxes, expected)
    assert made.level_sizes == tuple(9 * f.shape[2] * f.shape[3] for f in features)


def test_corner_anchoring_rounds_as_torchvision_does() -> None:
    """At this side and ratio half a pixel hangs on the last bit."""
    expected = AnchorGenerator(((33,),), ((0.36,),)).cell_anchors[0]
    assert torch.equal(priors.make((8, 8), (8,), (4.125,), (0.36,), "corner").boxes, expected)


@given(
    st.integers(1, 100),
    st.integers(1, 100),
    st.sampled_from([(8,), (8, 16), (4, 32)]),
    st.lists(st.floats(0.5, 8), min_size=1, max_size=2),
    st.lists(st.floats(0.2, 5), min_size=1, max_size=2),
)
def test_centre_anchoring_by_its_definition(
    height: int, width: int, strides: tuple[int, ...], scales: list[float], ratios: list[float]
) -> None:
    made = priors.make((height, width), strides, scales, ratios, "centre")
    expected = [
        [(column + 0.5) * stride, (row + 0.5) * stride, scale * stride / ratio**0.5, scale * stride * ratio**0.5]
        for stride in strides
        for row in range(math.ceil(height / stride))
        for column in range(math.ceil(width / stride))
        for ratio in ratios
        for scale in scales
    ]
    torch.testing.assert_close(box_convert(made.boxes, "xyxy", "cxcywh"), torch.tensor(expected), rtol=1e-5, atol=1e-3)
    assert sum(made.level_sizes) == len(made.boxes)
    assert made.boxes.dtype == torch.float32


def test_level_sizes_by_hand() -> None:
    made = priors.make((240, 320), (8, 16, 32), (8.0,), (1.0, 2.0), "centre")
    assert made.level_sizes == (30 * 40 * 2, 15 * 20 * 2, 8 * 10 * 2)


def test_a_ratio_is_height_over_width() -> None:
    tall = priors.make((8, 8), (8,), (1.0,), (4.0,), "centre").boxes[0]
    assert tall.tolist() == [2, -4, 6, 12]
