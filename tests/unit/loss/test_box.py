import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from detector.loss import box
from tests import strategies

BETA = st.sampled_from([0.0, 1 / 9, 1.0])
MASK = torch.tensor([True, False, True, True])
RUBBISH = (0.0, 1e30, -1e30, float("inf"), float("nan"))


def four_boxes() -> st.SearchStrategy[Tensor]:
    return strategies.valid_boxes(min_count=4, max_count=4)


@given(four_boxes(), four_boxes(), BETA)
def test_smooth_l1_is_torchs(predicted: Tensor, target: Tensor, beta: float) -> None:
    for scale in (1.0, 1e-3):
        a, b = predicted * scale, target * scale
        expected = F.smooth_l1_loss(a[MASK], b[MASK], reduction="sum", beta=beta)
        torch.testing.assert_close(box.smooth_l1(a, b, MASK, beta=beta), expected)


@pytest.mark.parametrize(
    ("beta", "expected"), [(0.0, 2.25), (0.5, 2.0 - 0.25 + 0.5 * 0.25**2 / 0.5), (4.0, (4 + 0.25**2) / 8)]
)
def test_smooth_l1_by_hand(beta: float, expected: float) -> None:
    offset = torch.tensor([[0.0, -2.0, 0.25, 0.0]])
    found = box.smooth_l1(offset, torch.zeros(1, 4), torch.ones(1, dtype=torch.bool), beta=beta)
    assert found.item() == pytest.approx(expected)


@given(four_boxes(), four_boxes())
def test_giou_is_torchvisions(predicted: Tensor, target: Tensor) -> None:
    a, b = predicted.double(), target.double()
    expected = torchvision.ops.generalized_box_iou_loss(a[MASK], b[MASK], reduction="sum")
    torch.testing.assert_close(box.giou(a, b, MASK), expected, rtol=0, atol=1e-5)


def _both(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return box.smooth_l1(predicted, target, mask, beta=1 / 9) + box.giou(predicted, target, mask)


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("coordinates", [[True, True, True, True], [False, False, True, False]])
def test_what_is_masked_out_may_be_anything(rubbish: float, coordinates: list[bool]) -> None:
    clean = torch.rand(2, 4, 4).cumsum(-1)
    is_kept = MASK[:, None] | ~torch.tensor(coordinates)
    dirty = torch.where(is_kept, clean, rubbish).requires_grad_()
    value = _both(dirty[0], dirty[1], MASK)
    torch.testing.assert_close(value, _both(clean[0, MASK], clean[1, MASK], torch.ones(3, dtype=torch.bool)))
    (gradient,) = torch.autograd.grad(value, dirty)
    assert gradient.isfinite().all()
    assert (gradient[:, ~MASK] == 0).all()
    assert (gradient[:, MASK] != 0).any()


@given(strategies.degenerate_boxes(), strategies.degenerate_boxes() | four_boxes())
def test_degenerate_boxes_have_finite_losses_and_gradients(predicted: Tensor, target: Tensor) -> None:
    predicted = predicted.clone().requires_grad_()
    value = _both(predicted, target, MASK)
    (gradient,) = torch.autograd.grad(value, predicted)
    assert value.isfinite()
    assert gradient.isfinite().all()


@settings(max_examples=15)
@given(st.integers(0, 2**31), BETA)
def test_gradient(seed: int, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted, target = torch.rand(2, 4, 4, generator=generator, dtype=torch.float64).cumsum(-1)
    predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: box.smooth_l1(x, target, MASK, beta=beta), (predicted,))
    assert torch.autograd.gradcheck(lambda x: box.giou(x, target, MASK), (predicted,))


def test_an_empty_mask_costs_nothing() -> None:
    assert _both(torch.rand(4, 4), torch.rand(4, 4), torch.zeros(4, dtype=torch.bool)).item() == 0
