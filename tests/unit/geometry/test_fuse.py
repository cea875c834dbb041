from dataclasses import dataclass
from fractions import Fraction
from random import Random
from time import process_time

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from detector.geometry import fuse
from tests import strategies

Case = tuple[Tensor, Tensor, Tensor]
THRESHOLD = st.sampled_from([0.0, 0.3, 0.55, 0.9])


@st.composite
def detections(draw: st.DrawFn, *, distinct_scores: bool = False, max_count: int = 10) -> Case:
    """Boxes on a coarse grid, so that clusters are frequent, of few classes."""
    count = draw(st.integers(0, max_count))
    score = st.integers(0, 1000)
    ranks = draw(st.lists(score, min_size=count, max_size=count, unique=distinct_scores))
    labels = draw(st.lists(st.sampled_from([0, 1, 79]), min_size=count, max_size=count))
    boxes = draw(strategies.grid_boxes(count=count))
    return boxes, torch.tensor(ranks, dtype=torch.float32) / 1000, torch.tensor(labels, dtype=torch.int64)


@dataclass
class Cluster:
    label: int
    members: list[int]
    box: list[Fraction]
    score: Fraction


def _exact_iou(a: list[Fraction], b: list[Fraction]) -> Fraction:
    zero = Fraction(0)
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), zero) * max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union else zero


def _weighted(rows: list[list[Fraction]], weights: list[Fraction]) -> list[Fraction]:
    total = sum(weights)
    if not total:
        return rows[0]
    return [sum((w * row[i] for w, row in zip(weights, rows, strict=True)), Fraction(0)) / total for i in range(4)]


def straightforward(case: Case, num_models: int, threshold: float) -> list[Cluster]:
    """The paper's steps in exact arithmetic. A case in which a rounding error could decide is turned down."""
    boxes, scores, labels = case
    rows = [[Fraction(v) for v in row] for row in boxes.tolist()]
    weights = [Fraction(v) for v in scores.tolist()]
    clusters: list[Cluster] = []
    for index in sorted(range(len(rows)), key=lambda i: -weights[i]):
        rivals = [c for c in clusters if c.label == int(labels[index])]
        ranked = sorted(rivals, key=lambda c: -_exact_iou(c.box, rows[index]))
        overlaps = [_exact_iou(c.box, rows[index]) for c in ranked]
        if overlaps and overlaps[0] > 0:
            assume(abs(overlaps[0] - Fraction(threshold)) > 1e-9)
            assume(len(overlaps) < 2 or overlaps[0] - overlaps[1] > 1e-9)
        if overlaps and overlaps[0] > threshold:
            members = [*ranked[0].members, index]
            ranked[0].members = members
            ranked[0].box = _weighted([rows[m] for m in members], [weights[m] for m in members])
        else:
            clusters.append(Cluster(int(labels[index]), [index], rows[index], Fraction(0)))
    for cluster in clusters:
        size = len(cluster.members)
        mean = sum((weights[m] for m in cluster.members), Fraction(0)) / size
        cluster.score = mean * min(size, num_models) / num_models
    return sorted(clusters, key=lambda c: -c.score)


def test_two_models_agree() -> None:
    boxes, scores, labels = fuse.fuse(
        torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]]),
        torch.tensor([0.75, 0.25]),
        torch.tensor([5, 5]),
        num_models=2,
        iou_threshold=0.5,
    )
    # IoU 80 / 120. x0 = (0.75 * 0 + 0.25 * 2) / 1, x1 = (0.75 * 10 + 0.25 * 12) / 1; score = 1 / 2, times 2 / 2.
    assert boxes.tolist() == [[0.5, 0.0, 10.5, 10.0]]
    assert scores.tolist() == [0.5]
    assert labels.tolist() == [5]


def test_a_box_that_one_of_four_models_found_has_a_quarter_of_its_score() -> None:
    boxes, scores, _ = fuse.fuse(
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0.5]), torch.tensor([0]), num_models=4, iou_threshold=0.5
    )
    assert boxes.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert scores.tolist() == [0.125]


def test_more_boxes_than_models_raise_no_score() -> None:
    _, scores, _ = fuse.fuse(
        torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(3, 1),
        torch.tensor([0.75, 0.5, 0.25]),
        torch.tensor([0, 0, 0]),
        num_models=2,
        iou_threshold=0.5,
    )
    assert scores.tolist() == [0.5]  # the mean, times min(3, 2) / 2


def test_a_box_is_compared_with_the_fused_box() -> None:
    # Of 16 square pixels: the second overlaps the first by 12 / 20 = 0.6; the two fuse to x in [0.5, 4.5]. The third,
    # x in [1.5, 5.5], overlaps that by 12 / 20 = 0.6, but the first box only by 10 / 22 = 0.45.
    row = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 5.0, 4.0], [1.5, 0.0, 5.5, 4.0]])
    boxes, scores, _ = fuse.fuse(
        row, torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0, 0, 0]), num_models=3, iou_threshold=0.5
    )
    assert len(boxes) == 1
    assert boxes[0].tolist() == pytest.approx([2.5 / 3, 0, 14.5 / 3, 4])  # (0 + 1 + 1.5) / 3, (4 + 5 + 5.5) / 3
    assert scores.tolist() == [0.5]


def test_a_box_joins_the_cluster_that_it_overlaps_most() -> None:
    # Two clusters apart by 2 / 6; the third overlaps the first by 2.5 / 5.5 = 0.45 and the second by 3.5 / 4.5 = 0.78.
    row = torch.tensor([[0.0, 0.0, 4.0, 1.0], [2.0, 0.0, 6.0, 1.0], [1.5, 0.0, 5.5, 1.0]])
    boxes, scores, _ = fuse.fuse(
        row, torch.tensor([0.75, 0.5, 0.5]), torch.tensor([0, 0, 0]), num_models=1, iou_threshold=0.4
    )
    assert boxes.tolist() == [[0.0, 0.0, 4.0, 1.0], [1.75, 0.0, 5.75, 1.0]]
    assert scores.tolist() == [0.75, 0.5]


def test_an_overlap_right_at_the_threshold_does_not_fuse() -> None:
    row = torch.tensor([[0.0, 0.0, 4.0, 1.0], [0.0, 0.0, 2.0, 1.0]])  # IoU 2 / 4
    scores, labels = torch.tensor([0.5, 0.5]), torch.tensor([0, 0])
    assert len(fuse.fuse(row, scores, labels, num_models=1, iou_threshold=0.5)[0]) == 2
    assert len(fuse.fuse(row, scores, labels, num_models=1, iou_threshold=0.49)[0]) == 1


def test_equal_scores_keep_the_order_of_the_input_across_classes() -> None:
    row = torch.tensor([[9.0, 0.0, 10.0, 1.0], [0.0, 0.0, 1.0, 1.0], [4.0, 0.0, 5.0, 1.0]])
    boxes, _, labels = fuse.fuse(row, torch.full((3,), 0.5), torch.tensor([7, 3, 7]), num_models=1, iou_threshold=0.5)
    assert boxes.tolist() == row.tolist()
    assert labels.tolist() == [7, 3, 7]


def test_of_equal_overlaps_the_earlier_cluster_wins() -> None:
    # The third overlaps both by 3 / 5.
    row = torch.tensor([[0.0, 0.0, 4.0, 1.0], [2.0, 0.0, 6.0, 1.0], [1.0, 0.0, 5.0, 1.0]])
    boxes, _, _ = fuse.fuse(row, torch.full((3,), 0.5), torch.tensor([0, 0, 0]), num_models=1, iou_threshold=0.5)
    assert boxes.tolist() == [[0.5, 0.0, 4.5, 1.0], [2.0, 0.0, 6.0, 1.0]]


def test_scores_of_zero_are_no_division_by_zero() -> None:
    row = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0]])
    boxes, scores, _ = fuse.fuse(row, torch.zeros(2), torch.tensor([0, 0]), num_models=2, iou_threshold=0.5)
    assert boxes.tolist() == [[0.0, 0.0, 4.0, 4.0]]
    assert scores.tolist() == [0.0]


def test_nothing_in_nothing_out() -> None:
    boxes, scores, labels = fuse.fuse(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), num_models=3, iou_threshold=0.5
    )
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)


@given(detections())
def test_one_model_alone_comes_back_bit_for_bit(case: Case) -> None:
    boxes, scores, labels = case
    boxes = boxes / 3  # thirds are not exact
    order = scores.argsort(descending=True, stable=True)
    fused = fuse.fuse(boxes, scores, labels, num_models=1, iou_threshold=1.0)
    assert torch.equal(fused[0], boxes[order])
    assert torch.equal(fused[1], scores[order])
    assert torch.equal(fused[2], labels[order])


@given(detections(), st.integers(1, 4), THRESHOLD)
def test_equals_the_paper_step_by_step(case: Case, num_models: int, threshold: float) -> None:
    expected = straightforward(case, num_models, threshold)
    boxes, scores, labels = fuse.fuse(*case, num_models=num_models, iou_threshold=threshold)
    found = sorted(zip(labels.tolist(), scores.tolist(), boxes.tolist(), strict=True))
    wanted = sorted((c.label, float(c.score), [float(v) for v in c.box]) for c in expected)
    assert len(found) == len(wanted)
    # By nearness and not by position: scores that are equal in exact arithmetic may stand in either order.
    for label, score, box in found:
        nearest = min(wanted, key=lambda w: (w[0] != label, max(abs(p - q) for p, q in zip(w[2], box, strict=True))))
        assert nearest[0] == label
        assert score == pytest.approx(nearest[1], abs=1e-6)
        assert box == pytest.approx(nearest[2], abs=1e-5)
        wanted.remove(nearest)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


@given(detections(), st.integers(1, 4), THRESHOLD)
def test_a_fused_box_lies_in_the_hull_of_its_cluster(case: Case, num_models: int, threshold: float) -> None:
    clusters = straightforward(case, num_models, threshold)
    boxes, _, labels = fuse.fuse(*case, num_models=num_models, iou_threshold=threshold)
    hulls = {label: [] for label in labels.tolist()}
    for cluster in clusters:
        members = case[0][cluster.members]
        hulls[cluster.label].append((members.min(dim=0).values, members.max(dim=0).values))
    for box, label in zip(boxes, labels.tolist(), strict=True):
        assert any((box >= low).all() and (box <= high).all() for low, high in hulls[label])


@given(detections(), st.integers(1, 4), THRESHOLD)
def test_scores_stay_within_0_and_1(case: Case, num_models: int, threshold: float) -> None:
    boxes, scores, labels = case
    high = scores.where(scores < 0.9, 1.0)
    _, fused, _ = fuse.fuse(boxes, high, labels, num_models=num_models, iou_threshold=threshold)
    assert ((fused >= 0) & (fused <= 1)).all()


@given(detections(distinct_scores=True), st.randoms(use_true_random=False), THRESHOLD)
def test_the_order_of_the_models_changes_nothing(case: Case, random: Random, threshold: float) -> None:
    rows = list(range(len(case[1])))
    random.shuffle(rows)
    moved = [column[rows] for column in case]
    before = fuse.fuse(*case, num_models=3, iou_threshold=threshold)
    after = fuse.fuse(*moved, num_models=3, iou_threshold=threshold)
    assert torch.equal(before[1], after[1])
    keys = [sorted(zip(s.tolist(), y.tolist(), b.tolist(), strict=True)) for b, s, y in (before, after)]
    assert keys[0] == keys[1]


@given(detections(), THRESHOLD)
def test_labels_never_mix(case: Case, threshold: float) -> None:
    boxes, scores, labels = case
    fused = fuse.fuse(*case, num_models=2, iou_threshold=threshold)
    assert set(fused[2].tolist()) == set(labels.tolist())
    for label in labels.unique():
        own = labels == label
        alone = fuse.fuse(boxes[own], scores[own], labels[own], num_models=2, iou_threshold=threshold)
        here = fused[2] == label
        assert torch.equal(fused[0][here], alone[0])
        assert torch.equal(fused[1][here], alone[1])


@pytest.mark.parametrize("num_classes", [1, 80])
def test_eight_models_in_one_image_are_fast(num_classes: int) -> None:
    corners = torch.rand(800, 2) * 1000
    case = torch.cat((corners, corners + 50), dim=-1), torch.rand(800), torch.randint(0, num_classes, (800,))
    seconds: list[float] = []
    for _ in range(3):
        start = process_time()
        fuse.fuse(*case, num_models=8, iou_threshold=0.55)
        seconds.append(process_time() - start)
    assert min(seconds) < 0.5  # 0.013 without the shape checks of the tests
