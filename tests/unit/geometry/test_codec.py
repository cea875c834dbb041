import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from detector.geometry import boxes, codec
from tests import strategies

STD = (0.1, 0.1, 0.2, 0.2)
REFERENCE = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
SAME_COUNT = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        strategies.valid_boxes(min_count=n, max_count=n), strategies.valid_boxes(min_count=n, max_count=n)
    )
)


@given(SAME_COUNT)
def test_round_trip(pair: tuple[Tensor, Tensor]) -> None:
    objects, priors = pair
    # A thin prior cannot grow to every box: the clamp is 62.5.
    ratio = (objects[:, 2:] - objects[:, :2]) / (priors[:, 2:] - priors[:, :2])
    priors = torch.where((ratio > 60).any(-1, keepdim=True), objects, priors)
    decoded = codec.decode(codec.encode(objects, priors, STD), priors, STD)
    torch.testing.assert_close(decoded, objects, rtol=1e-5, atol=2e-3)


@given(SAME_COUNT)
def test_encode_is_torchvisions(pair: tuple[Tensor, Tensor]) -> None:
    objects, priors = pair
    expected = REFERENCE.encode_single(objects, priors)
    torch.testing.assert_close(codec.encode(objects, priors, STD), expected, rtol=1e-4, atol=1e-3)


@given(SAME_COUNT, st.floats(-40, 40))
def test_decode_is_torchvisions_even_beyond_the_clamp(pair: tuple[Tensor, Tensor], offset: float) -> None:
    deltas, priors = pair[0] / strategies.CANVAS * 40 + offset, pair[1]
    expected = REFERENCE.decode_single(deltas, priors)
    torch.testing.assert_close(codec.decode(deltas, priors, STD), expected, rtol=1e-4, atol=1e-2)


def test_units_differ_by_coordinate() -> None:
    prior = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    moved = torch.tensor([[2.0, 3.0, 2.0 + 10 * math.e, 3.0 + 20 / math.e]])
    centre_x, centre_y = 2 + 5 * math.e, 3 + 10 / math.e
    expected = [(centre_x - 5) / 10 / 0.5, (centre_y - 10) / 20 / 0.25, 1 / 2.0, -1 / 4.0]
    deltas = codec.encode(moved, prior, (0.5, 0.25, 2.0, 4.0))
    torch.testing.assert_close(deltas, torch.tensor([expected]))
    torch.testing.assert_close(codec.decode(deltas, prior, (0.5, 0.25, 2.0, 4.0)), moved)


@given(strategies.degenerate_boxes(), strategies.valid_boxes(min_count=4, max_count=4))
def test_encode_of_degenerate_boxes_is_finite(objects: Tensor, priors: Tensor) -> None:
    assert codec.encode(objects, priors, STD).isfinite().all()


def test_huge_growth_is_clamped() -> None:
    prior = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    deltas = torch.tensor([[0.0, 0.0, 1e6, 1e6]], requires_grad=True)
    decoded = codec.decode(deltas, prior, STD)
    torch.testing.assert_close(boxes.xyxy_to_xywh(decoded)[0, 2:], torch.tensor([1000.0, 1000.0]))
    decoded.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()


def test_priors_broadcast_over_images() -> None:
    priors = torch.tensor([[0.0, 0.0, 8.0, 8.0], [4.0, 4.0, 20.0, 12.0]])
    deltas = torch.randn(3, 2, 4)
    decoded = codec.decode(deltas, priors, STD)
    assert decoded.shape == (3, 2, 4)
    assert torch.equal(decoded[1], codec.decode(deltas[1], priors, STD))
    torch.testing.assert_close(codec.encode(decoded, priors, STD), deltas, rtol=1e-4, atol=1e-4)


def test_decode_gradient() -> None:
    priors = torch.tensor([[0.0, 0.0, 8.0, 8.0]], dtype=torch.float64)
    deltas = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: codec.decode(x, priors, STD), (deltas,))
