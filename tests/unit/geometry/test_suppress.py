import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detector.geometry import suppress
from tests import strategies

GROUP = st.integers(0, 3) | st.sampled_from([10**6, 10**6 - 1, 499_999, -(2**62), 2**62])
THRESHOLD = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def crowded(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    """Boxes on a coarse grid, in 64ths of a pixel: many equal boxes, equal scores and IoUs right at the threshold."""
    count = draw(st.integers(0, 12))
    boxes = draw(strategies.grid_boxes(count=count)) / 64 + draw(st.sampled_from([0, -1000, 3000]))
    scores = draw(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=count, max_size=count))
    groups = draw(st.lists(GROUP, min_size=count, max_size=count))
    return boxes, torch.tensor(scores), torch.tensor(groups, dtype=torch.int64), draw(THRESHOLD)


def _exact_iou(a: Sequence[float], b: Sequence[float]) -> Fraction:
    ax0, ay0, ax1, ay1 = map(Fraction, a)
    bx0, by0, bx1, by1 = map(Fraction, b)
    overlap = max(min(ax1, bx1) - max(ax0, bx0), Fraction(0)) * max(min(ay1, by1) - max(ay0, by0), Fraction(0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - overlap
    return overlap / union if union else Fraction(0)


def _greedy(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    rows, names = boxes.tolist(), groups.tolist()
    kept: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: -scores[i].item()):
        rivals = [k for k in kept if names[k] == names[index]]
        if all(_exact_iou(rows[k], rows[index]) <= Fraction(threshold) for k in rivals):
            kept.append(index)
    return kept


@given(crowded())
def test_equals_greedy_suppression_in_exact_arithmetic(case: tuple[Tensor, Tensor, Tensor, float]) -> None:
    boxes, scores, groups, threshold = case
    assert suppress.keep_best(boxes, scores, groups, threshold).tolist() == _greedy(boxes, scores, groups, threshold)


@pytest.mark.parametrize("num_groups", [1, 80, 16 * 1203, 10**6])
def test_equals_torchvision_group_by_group(num_groups: int) -> None:
    count = 400
    corners = torch.rand(count, 2) * 1300
    boxes = torch.cat((corners, corners + 1 + torch.rand(count, 2) * 500), dim=-1)
    scores, groups = torch.rand(count), torch.randint(0, min(num_groups, 7), (count,)) * (num_groups // 7 + 1)
    kept = suppress.keep_best(boxes, scores, groups, 0.5)
    expected: list[int] = []
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        within = torchvision.ops.nms(boxes[members].double(), scores[members].double(), 0.5)
        expected += members[within].tolist()
    assert sorted(kept.tolist()) == sorted(expected)
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    assert len(kept) < count


@given(crowded())
def test_other_groups_change_nothing(case: tuple[Tensor, Tensor, Tensor, float]) -> None:
    boxes, scores, groups, threshold = case
    kept = set(suppress.keep_best(boxes, scores, groups, threshold).tolist())
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        alone = suppress.keep_best(boxes[members], scores[members], groups[members], threshold)
        assert kept & set(members.tolist()) == set(members[alone].tolist())


def test_equal_scores_keep_the_earlier_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(3, 1)
    kept = suppress.keep_best(boxes, torch.full((3,), 0.5), torch.tensor([1, 0, 1]), 0.5)
    assert kept.tolist() == [0, 1]


def test_nothing_in_nothing_out() -> None:
    kept = suppress.keep_best(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5)
    assert kept.tolist() == []
    assert kept.dtype == torch.int64


@st.composite
def of_two_images(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of two images."""
    count = draw(st.integers(1, 8))
    boxes = torch.stack([draw(strategies.grid_boxes(count=count)) for _ in range(2)]).float()
    numbers = st.lists(st.floats(2**-6, 1, width=32), min_size=count, max_size=count)
    names = st.lists(st.integers(0, 1), min_size=count, max_size=count)
    return boxes, torch.tensor([draw(numbers), draw(numbers)]), torch.tensor([draw(names), draw(names)])


@given(of_two_images(), st.sampled_from([0.01, 0.025, 0.3]))
def test_vote_equals_the_plain_loop(case: tuple[Tensor, Tensor, Tensor], width: float) -> None:
    boxes, scores, labels = case
    voted = suppress.vote(boxes, labels, boxes, scores, labels, width=width)
    for image in range(2):
        for row, box in enumerate(boxes[image]):
            total, weights = torch.zeros(4, dtype=torch.float64), 0.0
            for column, other in enumerate(boxes[image]):
                overlap = float(_exact_iou(box.tolist(), other.tolist()))
                if overlap > 0 and labels[image, row] == labels[image, column]:
                    weight = scores[image, column].item() * math.exp(-((1 - overlap) ** 2) / width)
                    total, weights = total + weight * other.double(), weights + weight
            expected = total / weights if weights else box.double()
            torch.testing.assert_close(voted[image, row].double(), expected, rtol=1e-5, atol=1e-4)


@given(of_two_images())
def test_a_narrow_vote_hears_only_the_box_itself(case: tuple[Tensor, Tensor, Tensor]) -> None:
    boxes, scores, labels = case
    torch.testing.assert_close(suppress.vote(boxes, labels, boxes, scores, labels, width=1e-5), boxes)


@given(of_two_images(), st.data(), st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.6]))
def test_agree_equals_the_plain_loop(
    case: tuple[Tensor, Tensor, Tensor], data: st.DataObject, num_views: int, threshold: float
) -> None:
    boxes, scores, labels = case
    count = boxes.shape[1]
    lists = st.lists(st.integers(0, num_views - 1), min_size=count, max_size=count)
    views = torch.tensor([data.draw(lists), data.draw(lists)])
    for image in range(2):
        one = boxes[image], scores[image], labels[image]
        kept = suppress.keep_best(*one, threshold)
        found = suppress.agree(
            *(column[None, kept] for column in one),
            *(column[None] for column in one),
            views[image][None],
            num_views=num_views,
            iou_threshold=threshold,
        )[0]
        best: dict[tuple[int, int], float] = {(int(row), int(views[image, row])): scores[image, row] for row in kept}
        for column in range(count):
            for row in kept.tolist():
                overlap = _exact_iou(boxes[image, row].tolist(), boxes[image, column].tolist())
                if labels[image, row] == labels[image, column] and overlap > threshold:
                    key = row, int(views[image, column])
                    best[key] = max(best.get(key, 0.0), scores[image, column].item())
                    break
        for row, score in zip(kept.tolist(), found.tolist(), strict=True):
            expected = sum(float(best.get((row, view), 0.0)) for view in range(num_views)) / num_views
            assert score == pytest.approx(expected, abs=1e-6)


@given(of_two_images(), st.sampled_from([0.0, 0.5]))
def test_one_view_agrees_with_itself(case: tuple[Tensor, Tensor, Tensor], threshold: float) -> None:
    one = tuple(column[0] for column in case)
    kept = suppress.keep_best(*one, threshold)
    mine = [column[None, kept] for column in one]
    everything = [column[None] for column in one]
    views = torch.zeros_like(everything[2])
    found = suppress.agree(*mine, *everything, views, num_views=1, iou_threshold=threshold)
    assert torch.equal(found, mine[1])
