import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from detector.geometry import boxes, priors
from detector.targets import atss
from detector.types import Priors, Targets
from tests import strategies

SIDE = strategies.CANVAS
PRIORS = priors.make((SIDE, SIDE), (16, 32, 64), (4.0,), (1.0,), "centre")
SEVERAL = priors.make((SIDE, SIDE), (32, 64), (2.0, 3.0), (0.5, 1.0), "centre")


@st.composite
def scattered(draw: st.DrawFn, *, max_count: int = 5) -> Tensor:
    """Objects whose centres are not equally near to two cells, so that no tie hides the rule."""
    count = draw(st.integers(1, max_count))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * SIDE
    size = 4 * 32 ** torch.rand(count, 2, generator=generator)
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def _paper(objects: Tensor, reference: Priors, k: int) -> dict[int, int]:
    """Algorithm 1 of the paper, object by object; ties to the higher IoU. Prior to object."""
    centres = boxes.centres(reference.boxes)
    owner: dict[int, tuple[float, int]] = {}
    for row, box in enumerate(objects):
        candidates: list[int] = []
        start = 0
        for size in reference.level_sizes:
            distance = (centres[start : start + size] - boxes.centres(box)).norm(dim=-1)
            candidates += (distance.argsort()[:k] + start).tolist()
            start += size
        overlaps = boxes.pairwise_iou(reference.boxes[candidates], box[None])[:, 0]
        threshold = overlaps.mean() + overlaps.std()
        for prior, overlap in zip(candidates, overlaps, strict=True):
            x, y = centres[prior]
            is_inside = box[0] < x < box[2] and box[1] < y < box[3]
            if overlap >= threshold and is_inside and overlap > owner.get(prior, (0.0, -1))[0]:
                owner[prior] = (overlap.item(), row)
    return {prior: row for prior, (_, row) in owner.items()}


def _match(objects: Tensor, reference: Priors, k: int = 9) -> dict[int, int]:
    matched, is_positive = atss.match(objects[None], torch.ones(1, len(objects), dtype=torch.bool), reference, k)
    return {int(prior): int(matched[0, prior]) for prior in is_positive[0].nonzero()[:, 0]}


@given(scattered(), st.integers(2, 12))
def test_is_the_papers_algorithm_plus_rescue(objects: Tensor, k: int) -> None:
    found, expected = _match(objects, PRIORS, k), _paper(objects, PRIORS, k)
    served = set(expected.values())
    assert {prior: row for prior, row in found.items() if row in served} == expected
    # A rescued object has one prior, which it overlaps.
    rescued = [row for row in found.values() if row not in served]
    assert len(rescued) == len(set(rescued))


@given(scattered(max_count=4), st.sampled_from([PRIORS, SEVERAL]))
def test_every_object_that_overlaps_gets_a_prior(objects: Tensor, reference: Priors) -> None:
    assert set(_match(objects, reference).values()) == set(range(len(objects)))


def test_objects_on_one_spot_share_out_the_nearest_priors() -> None:
    speck = torch.tensor([33.0, 33.0, 35.0, 35.0])
    found = _match(speck.repeat(3, 1), PRIORS)
    assert sorted(found.values()) == [0, 1, 2]
    assert len(found) == 3


def test_of_equal_objects_the_first_wins_and_the_other_is_rescued() -> None:
    twins = torch.tensor([[30.0, 30.0, 94.0, 94.0]]).repeat(2, 1)
    alone, together = _match(twins[:1], PRIORS), _match(twins, PRIORS)
    assert {prior for prior, row in together.items() if row == 0} == set(alone)
    assert sum(row == 1 for row in together.values()) == 1


def test_a_prior_goes_to_the_object_of_higher_iou_whatever_the_order() -> None:
    snug, loose = torch.tensor([8.0, 8.0, 72.0, 72.0]), torch.tensor([0.0, 0.0, 90.0, 90.0])
    forward, backward = _match(torch.stack((snug, loose)), PRIORS), _match(torch.stack((loose, snug)), PRIORS)
    assert forward == {prior: 1 - row for prior, row in backward.items()}
    best = int(boxes.pairwise_iou(PRIORS.boxes, snug[None]).argmax())
    assert forward[best] == 0


@given(strategies.degenerate_boxes())
def test_objects_without_area_match_nothing(objects: Tensor) -> None:
    has_area = boxes.area(objects) > 0
    owners = set(_match(objects, PRIORS).values())
    assert all(has_area[row] for row in owners)


def test_more_candidates_than_a_level_has() -> None:
    tiny = priors.make((16, 16), (16,), (2.0,), (1.0,), "centre")
    assert _match(torch.tensor([[1.0, 1.0, 15.0, 15.0]]), tiny, 9) == {0: 0}


@given(strategies.padded_targets(crowds=False))
def test_rubbish_rows_match_nothing(targets: Targets) -> None:
    assume(targets.boxes.shape[1] > 0)
    matched, is_positive = atss.match(targets.boxes, targets.is_object, PRIORS, 9)
    assert targets.is_object.gather(1, matched)[is_positive].all()
    assert not is_positive[~targets.is_object.any(-1)].any()
