import torch
import torchvision
from hypothesis import assume, given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher

from detector.geometry import priors
from detector.targets import max_iou
from detector.types import Targets
from tests import strategies

SIDE = strategies.CANVAS
PRIORS = priors.make((SIDE, SIDE), (32, 64), (1.0, 2.0), (0.5, 1.0, 2.0), "corner")


@given(
    strategies.padded_targets(crowds=False, max_rows=6),
    st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)) | st.just((0.4, 0.5)),
    st.booleans(),
)
def test_is_torchvisions_matcher(targets: Targets, thresholds: tuple[float, float], rescue: bool) -> None:
    assume(targets.boxes.shape[1] > 0)
    low, high = sorted(thresholds)
    matched, is_positive, is_between = max_iou.match(
        targets.boxes, targets.is_object, PRIORS, positive_iou=high, negative_iou=low, rescue=rescue
    )
    reference = Matcher(high, low, allow_low_quality_matches=rescue)
    for image, is_object in enumerate(targets.is_object):
        rows = is_object.nonzero()[:, 0]
        if len(rows) == 0:
            assert not (is_positive[image] | is_between[image]).any()
            continue
        overlaps = torchvision.ops.box_iou(targets.boxes[image, rows], PRIORS.boxes)
        assume((overlaps.amax(1) > 0).all())
        expected = reference(overlaps)
        assert torch.equal(is_positive[image], expected >= 0)
        assert torch.equal(is_between[image], expected == Matcher.BETWEEN_THRESHOLDS)
        assert torch.equal(matched[image][expected >= 0], rows[expected[expected >= 0]])


def test_thresholds_are_inclusive() -> None:
    half = torch.tensor([[[0.0, 0.0, 32.0, 16.0]]])
    square = priors.make((32, 32), (32,), (1.0,), (1.0,), "centre")
    is_object = torch.ones(1, 1, dtype=torch.bool)
    for positive, negative, expected in (
        (0.5, 0.4, (True, False)),
        (0.6, 0.5, (False, True)),
        (0.6, 0.55, (False, False)),
    ):
        _, is_positive, is_between = max_iou.match(
            half, is_object, square, positive_iou=positive, negative_iou=negative, rescue=False
        )
        assert (is_positive.item(), is_between.item()) == expected


def test_an_object_away_from_every_prior_rescues_nothing() -> None:
    away = torch.tensor([[[1000.0, 1000.0, 1010.0, 1010.0], [5.0, 5.0, 5.0, 9.0]]])
    _, is_positive, is_between = max_iou.match(
        away, torch.ones(1, 2, dtype=torch.bool), PRIORS, positive_iou=0.5, negative_iou=0.4, rescue=True
    )
    assert not (is_positive | is_between).any()
