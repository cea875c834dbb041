import torch
from hypothesis import given

from detector.config import AssignConfig
from detector.geometry import priors
from detector.targets import assign, encode
from detector.types import Targets
from tests import strategies

PRIORS = priors.make((strategies.CANVAS, strategies.CANVAS), (32, 64), (2.0,), (1.0,), "centre")


@given(strategies.padded_targets())
def test_each_positive_prior_gets_its_objects_box_and_label(targets: Targets) -> None:
    assignment = assign.assign(targets, PRIORS, AssignConfig())
    boxes, labels = encode.matched_boxes(targets, assignment), encode.matched_labels(targets, assignment)
    assert boxes.shape == (*assignment.matched.shape, 4)
    assert labels.shape == assignment.matched.shape
    for image, prior in assignment.is_positive.nonzero().tolist():
        row = int(assignment.matched[image, prior])
        assert torch.equal(boxes[image, prior], targets.boxes[image, row])
        assert labels[image, prior] == targets.labels[image, row]
