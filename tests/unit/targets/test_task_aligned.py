from dataclasses import dataclass, replace
from functools import partial
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.geometry import boxes, priors
from detector.targets import task_aligned
from detector.types import Priors
from tests import strategies

SIDE = strategies.CANVAS
PYRAMID = priors.make((SIDE, SIDE), (16, 32, 64), (4.0,), (1.0,), "centre")
SEVERAL = priors.make((SIDE, SIDE), (32, 64), (1.0, 2.0), (0.5, 1.0), "centre")
FOUR = priors.make((SIDE, SIDE), (64,), (2.0,), (1.0,), "centre")  # fewer than the objects may be
NUM_CLASSES = 3
POWERS = (1.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image."""

    objects: Tensor  # [N, 4]
    labels: Tensor  # [N]
    reference: Priors
    scores: Tensor  # [A, C]
    predicted: Tensor  # [A, 4]


@st.composite
def scene(draw: st.DrawFn, *, reference: Priors | None = None, max_count: int = 5) -> Scene:
    """Predictions around the objects, so that many overlap several; some scores are 0, some objects without area.

    In float64, so that nothing is as good as equal and rounding decides nothing.
    """
    rand = partial(torch.rand, dtype=torch.float64)
    reference = draw(st.sampled_from([PYRAMID, SEVERAL, FOUR])) if reference is None else reference
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, num_priors = draw(st.integers(1, max_count)), len(reference.boxes)
    spread = draw(st.sampled_from([1.0, 0.3, 0.02]))
    centre = SIDE / 2 + (rand(count, 2, generator=generator) - 0.5) * SIDE * spread
    size = draw(st.sampled_from([2.0, 16.0, 64.0])) * (0.5 + rand(count, 2, generator=generator))
    objects = torch.cat((centre - size / 2, centre + size / 2), dim=-1)
    guess = torch.randint(0, count, (num_priors,), generator=generator)
    predicted = (
        objects[guess]
        + torch.randn(num_priors, 4, generator=generator, dtype=torch.float64) * size[guess].repeat(1, 2) / 5
    )
    scores = rand(num_priors, NUM_CLASSES, generator=generator)
    scores *= torch.rand(num_priors, 1, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    is_flat = draw(st.integers(0, count)) if draw(st.booleans()) else count
    objects[is_flat:, 3] = objects[is_flat:, 1]
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
    return Scene(objects=objects, labels=labels, reference=reference, scores=scores, predicted=predicted)


def _match(case: Scene, k: int = 9, powers: tuple[float, float] = POWERS) -> dict[int, int]:
    matched, is_positive = task_aligned.match(
        case.objects[None],
        case.labels[None],
        torch.ones(1, len(case.objects), dtype=torch.bool),
        case.reference,
        case.scores[None],
        case.predicted[None],
        num_candidates=k,
        powers=powers,
    )
    return {int(prior): int(matched[0, prior]) for prior in is_positive[0].nonzero()[:, 0]}


def _claims(case: Scene, k: int, powers: tuple[float, float]) -> dict[int, list[int]]:
    """The section of the paper, object by object: its priors, best first."""
    quality = boxes.pairwise_iou(case.objects, case.predicted).tolist()
    claims: dict[int, list[int]] = {}
    for row, (x0, y0, x1, y1) in enumerate(case.objects.tolist()):
        alignment: list[tuple[float, int]] = []
        for prior, (x, y) in enumerate(boxes.centres(case.reference.boxes).tolist()):
            score = case.scores[prior, case.labels[row]].item()
            t = score ** powers[0] * quality[row][prior] ** powers[1]
            if x0 < x < x1 and y0 < y < y1 and t > 0:
                alignment.append((-t, prior))
        claims[row] = [prior for _, prior in sorted(alignment)[:k]]
    return claims


def _reference(case: Scene, k: int, powers: tuple[float, float]) -> dict[int, int]:
    """Claims, contention, then rounds of rescue for as long as they help."""
    quality = boxes.pairwise_iou(case.objects, case.predicted).tolist()
    owner: dict[int, int] = {}
    for row, claimed in _claims(case, k, powers).items():
        for prior in claimed:
            if prior not in owner or quality[row][prior] > quality[owner[prior]][prior]:
                owner[prior] = row
    overlaps = boxes.pairwise_iou(case.objects, case.reference.boxes).tolist()
    while wishes := _wishes(overlaps, owner):
        for row, prior in wishes.items():
            if prior not in owner or overlaps[row][prior] > overlaps[owner[prior]][prior]:
                owner[prior] = row
    return owner


def _wishes(overlaps: list[list[float]], owner: dict[int, int]) -> dict[int, int]:
    """The free prior that each object without one overlaps most."""
    wishes: dict[int, int] = {}
    for row, of_object in enumerate(overlaps):
        free = [(-overlap, prior) for prior, overlap in enumerate(of_object) if overlap > 0 and prior not in owner]
        if free and row not in owner.values():
            wishes[row] = min(free)[1]
    return wishes


@settings(max_examples=300)
@given(scene(), st.integers(1, 13), st.sampled_from([(1.0, 6.0), (0.5, 1.0), (1.0, 0.0), (0.0, 2.0)]))
def test_is_the_papers_assignment_plus_rescue(case: Scene, k: int, powers: tuple[float, float]) -> None:
    assert _match(case, k, powers) == _reference(case, k, powers)


@given(scene(), st.integers(1, 13), st.randoms(use_true_random=False))
def test_the_order_of_objects_does_not_matter(case: Scene, k: int, random: Random) -> None:
    order = list(range(len(case.objects)))
    random.shuffle(order)
    shuffled = replace(case, objects=case.objects[order], labels=case.labels[order])
    assert {prior: order[row] for prior, row in _match(shuffled, k).items()} == _match(case, k)


@given(st.lists(scene(reference=SEVERAL), min_size=1, max_size=3), st.integers(0, 2**31))
def test_a_padded_batch_is_its_images_one_by_one(cases: list[Scene], seed: int) -> None:
    num_rows = 2 + max(len(case.objects) for case in cases)
    generator = torch.Generator().manual_seed(seed)
    # Padding holds a plausible box and a label that nothing may read, anywhere among the objects.
    objects = torch.tensor([8.0, 8.0, 100.0, 90.0], dtype=torch.float64).repeat(len(cases), num_rows, 1)
    labels = torch.full((len(cases), num_rows), 99)
    is_object = torch.zeros(len(cases), num_rows, dtype=torch.bool)
    rows = [torch.randperm(num_rows, generator=generator)[: len(case.objects)].sort().values for case in cases]
    for image, case in enumerate(cases):
        objects[image, rows[image]], labels[image, rows[image]] = case.objects, case.labels
        is_object[image, rows[image]] = True
    matched, is_positive = task_aligned.match(
        objects,
        labels,
        is_object,
        SEVERAL,
        torch.stack([case.scores for case in cases]),
        torch.stack([case.predicted for case in cases]),
        num_candidates=9,
        powers=POWERS,
    )
    for image, case in enumerate(cases):
        found = {int(prior): int(matched[image, prior]) for prior in is_positive[image].nonzero()[:, 0]}
        assert found == {prior: int(rows[image][row]) for prior, row in _match(case).items()}
        assert (matched[image][~is_positive[image]] == 0).all()


@given(scene(reference=PYRAMID), st.integers(1, 2))
def test_every_object_that_overlaps_a_prior_gets_one(case: Scene, k: int) -> None:
    # Twelve priors or more overlap any spot of the canvas; four other objects claim eight at most.
    overlaps = boxes.pairwise_iou(case.objects, case.reference.boxes)
    assert set(_match(case, k).values()) == set(overlaps.amax(1).nonzero()[:, 0].tolist())


@given(strategies.degenerate_boxes())
def test_objects_without_area_match_nothing(objects: Tensor) -> None:
    predicted = objects[torch.arange(len(SEVERAL.boxes)) % 4]
    scores = torch.ones(len(predicted), NUM_CLASSES)
    labels = torch.zeros(4, dtype=torch.int64)
    case = Scene(objects=objects, labels=labels, reference=SEVERAL, scores=scores, predicted=predicted)
    has_area = boxes.area(objects) > 0
    assert all(has_area[row] for row in _match(case).values())


def test_no_objects_match_nothing() -> None:
    num_priors = len(SEVERAL.boxes)
    _, is_positive = task_aligned.match(
        SEVERAL.boxes[None, :3],
        torch.full((1, 3), -1),
        torch.zeros(1, 3, dtype=torch.bool),
        SEVERAL,
        torch.ones(1, num_priors, NUM_CLASSES),
        SEVERAL.boxes[None],
        num_candidates=9,
        powers=POWERS,
    )
    assert not is_positive.any()


def _at_four(objects: list[list[float]], *, scores: Tensor | None = None, predicted: Tensor | None = None) -> Scene:
    """Objects of class 0 among the four priors whose centres are (32, 32), (96, 32), (32, 96), (96, 96)."""
    return Scene(
        objects=torch.tensor(objects),
        labels=torch.zeros(len(objects), dtype=torch.int64),
        reference=FOUR,
        scores=torch.ones(4, 1) if scores is None else scores,
        predicted=FOUR.boxes if predicted is None else predicted,
    )


@pytest.mark.parametrize(("x1", "expected"), [(96.0, {0}), (96.5, {0, 1})])
def test_a_centre_on_the_edge_is_not_inside(x1: float, expected: set[int]) -> None:
    assert set(_match(_at_four([[0.0, 0.0, x1, 64.0]]))) == expected


def test_the_powers_weigh_score_against_iou() -> None:
    whole = torch.tensor([0.0, 0.0, 128.0, 128.0])
    predicted = torch.stack((whole, whole * 0.5, whole, whole * 0.5))
    case = _at_four([whole.tolist()], scores=torch.tensor([[0.1], [0.9], [0.2], [0.8]]), predicted=predicted)
    assert _match(case, 2, (1.0, 6.0)).keys() == {0, 2}
    assert _match(case, 2, (6.0, 1.0)).keys() == {1, 3}
    assert _match(case, 3, (1.0, 6.0)).keys() == {0, 1, 2}
    assert _match(case, 99, (1.0, 6.0)).keys() == {0, 1, 2, 3}


def test_the_score_is_that_of_the_objects_class() -> None:
    scores = torch.tensor([[0.0, 0.9], [0.9, 0.0], [0.0, 0.9], [0.0, 0.9]])
    case = _at_four([[0.0, 0.0, 128.0, 128.0]], scores=scores)
    assert set(_match(case)) == {1}
    assert set(_match(replace(case, labels=torch.tensor([1])))) == {0, 2, 3}


def test_of_equal_objects_the_first_wins_and_the_others_are_rescued() -> None:
    twins = [[10.0, 10.0, 50.0, 50.0]] * 3
    assert _match(_at_four(twins)) == {0: 0, 1: 1, 2: 2}
    # Six for four priors: nobody is robbed, and who comes late gets nothing.
    assert _match(_at_four(twins * 2)) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_contention_is_decided_by_the_predicted_box_not_by_alignment() -> None:
    # Prior 0 has a higher score for class 0, but its box fits the object of class 1 better.
    case = _at_four([[0.0, 0.0, 60.0, 60.0], [0.0, 0.0, 64.0, 64.0]], scores=torch.tensor([[0.9, 0.1]] * 4))
    fit = torch.tensor([0.0, 0.0, 64.0, 64.0]).repeat(4, 1)
    found = _match(replace(case, labels=torch.tensor([0, 1]), predicted=fit))
    assert found[0] == 1
    assert found[1] == 0


def test_predictions_of_nan_are_no_candidates() -> None:
    case = _at_four([[0.0, 0.0, 128.0, 128.0]])
    predicted = torch.where(torch.arange(4)[:, None] < 2, torch.nan, case.predicted)
    assert set(_match(replace(case, predicted=predicted), 2)) == {2, 3}


@pytest.mark.parametrize("powers", [(1.0, 6.0), (6.0, 1.0)])
def test_half_precision_predictions_do_not_underflow(powers: tuple[float, float]) -> None:
    # 0.04 to the sixth power is below the least number of half precision.
    case = _at_four(
        [[0.0, 0.0, 128.0, 128.0]], scores=torch.full((4, 1), 0.04).half(), predicted=(FOUR.boxes.clamp(0) / 5).half()
    )
    assert set(_match(case, powers=powers)) == {0, 1, 2, 3}
