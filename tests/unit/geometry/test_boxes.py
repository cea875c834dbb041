import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from detector.geometry import boxes
from tests import strategies

PAIR = st.integers(1, 5).flatmap(
    lambda n: st.tuples(
        strategies.valid_boxes(min_count=n, max_count=n), strategies.valid_boxes(min_count=n, max_count=n)
    )
)
AWKWARD_PAIR = st.tuples(
    strategies.degenerate_boxes() | strategies.valid_boxes(min_count=4, max_count=4), strategies.degenerate_boxes()
)


def test_formats_by_hand() -> None:
    box = torch.tensor([[10.0, 20.0, 14.0, 26.0]])
    assert boxes.xyxy_to_xywh(box).tolist() == [[10, 20, 4, 6]]
    assert boxes.centres(box).tolist() == [[12, 23]]
    assert boxes.area(box).tolist() == [24]


def test_area_of_a_reversed_box_is_zero() -> None:
    assert boxes.area(torch.tensor([[4.0, 4.0, 1.0, 1.0], [0.0, 4.0, 3.0, 1.0]])).tolist() == [0, 0]


@given(strategies.valid_boxes(), strategies.valid_boxes())
def test_pairwise_iou_is_symmetric_bounded_and_torchvisions(a: Tensor, b: Tensor) -> None:
    iou = boxes.pairwise_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1)).all()
    assert torch.equal(iou, boxes.pairwise_iou(b, a).T)
    torch.testing.assert_close(iou, torchvision.ops.box_iou(a, b), rtol=0, atol=1e-6)


@given(strategies.valid_boxes())
def test_iou_with_itself_is_one(a: Tensor) -> None:
    torch.testing.assert_close(boxes.iou(a, a), torch.ones(len(a)))


@given(PAIR)
def test_elementwise_scores_are_the_diagonal_of_torchvisions(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    torch.testing.assert_close(boxes.iou(a, b), torchvision.ops.box_iou(a, b).diagonal(), rtol=0, atol=1e-6)
    expected = torchvision.ops.generalized_box_iou(a.double(), b.double()).diagonal().float()
    torch.testing.assert_close(boxes.giou(a, b), expected, rtol=0, atol=1e-5)


def test_batched_pairwise_iou_is_the_loop() -> None:
    a, b = torch.rand(3, 4, 4).cumsum(-1), torch.rand(3, 5, 4).cumsum(-1)
    expected = torch.stack([boxes.pairwise_iou(x, y) for x, y in zip(a, b, strict=True)])
    assert torch.equal(boxes.pairwise_iou(a, b), expected)


def test_empty_union_scores_zero() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert boxes.pairwise_iou(point, point).item() == 0
    assert boxes.iou(point, point).item() == 0
    assert boxes.giou(point, point).item() == 0


def test_giou_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[4.0, 0.0, 6.0, 2.0]])
    assert boxes.giou(a, b).item() == pytest.approx(-(12 - 8) / 12)


@given(AWKWARD_PAIR)
def test_scores_of_degenerate_boxes_are_finite_and_so_are_gradients(pair: tuple[Tensor, Tensor]) -> None:
    for score, low in ((boxes.giou, -1), (boxes.iou, 0)):
        a, b = (x.clone().requires_grad_() for x in pair)
        value = score(a, b)
        assert ((value >= low - 1e-5) & (value <= 1 + 1e-5)).all()
        value.sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()


@given(PAIR)
def test_giou_gradient(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    # Well apart from equal edges, where minimum and maximum have a kink.
    if (
        (a - b).abs().min() > 1e-2
        and (a[:, :2] - b[:, 2:]).abs().min() > 1e-2
        and (a[:, 2:] - b[:, :2]).abs().min() > 1e-2
    ):
        assert torch.autograd.gradcheck(boxes.giou, (a.double().requires_grad_(), b.double()))


def test_contain_is_strict() -> None:
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    points = torch.tensor([[2.0, 2.0], [0.0, 2.0], [4.0, 2.0], [2.0, 0.0], [2.0, 4.0], [5.0, 2.0]])
    assert boxes.contain(box, points).tolist() == [True, False, False, False, False, False]


def test_clip_keeps_x_with_width_and_y_with_height() -> None:
    box = torch.tensor([[-5.0, -6.0, 900.0, 900.0], [40.0, 50.0, 60.0, 70.0]])
    assert boxes.clip(box, (30, 100)).tolist() == [[0, 0, 100, 30], [40, 30, 60, 30]]


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        boxes.area(torch.zeros(3, 5))
