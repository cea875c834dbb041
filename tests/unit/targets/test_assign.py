import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.config import AssignConfig
from detector.geometry import boxes, priors
from detector.targets import assign
from detector.types import Assignment, Priors, Targets
from tests import strategies

PRIORS = priors.make((strategies.CANVAS, strategies.CANVAS), (16, 32, 64), (4.0,), (1.0,), "centre")
ATSS, MAX_IOU = AssignConfig(kind="atss"), AssignConfig(kind="max_iou")
CONFIG = st.sampled_from([ATSS, MAX_IOU, AssignConfig(kind="max_iou", rescue=False), AssignConfig(candidates=1)])


def _targets(rows: list[list[float]], *, is_object: list[bool], is_crowd: list[bool]) -> Targets:
    return Targets(
        boxes=torch.tensor([rows]),
        labels=torch.zeros(1, len(rows), dtype=torch.int64),
        is_object=torch.tensor([is_object]),
        is_crowd=torch.tensor([is_crowd]),
    )


def _rows(targets: Targets, images: slice, order: torch.Tensor) -> Targets:
    return Targets(
        boxes=targets.boxes[images, order],
        labels=targets.labels[images, order],
        is_object=targets.is_object[images, order],
        is_crowd=targets.is_crowd[images, order],
    )


def _assert_same(found: Assignment, expected: Assignment) -> None:
    assert torch.equal(found.is_positive, expected.is_positive)
    assert torch.equal(found.is_ignored, expected.is_ignored)
    assert torch.equal(found.matched[found.is_positive], expected.matched[expected.is_positive])


@given(strategies.padded_targets(), CONFIG)
def test_contract(targets: Targets, config: AssignConfig) -> None:
    found = assign.assign(targets, PRIORS, config)
    shape = (len(targets.boxes), len(PRIORS.boxes))
    assert found.matched.shape == found.is_positive.shape == found.is_ignored.shape == shape
    assert found.matched.dtype == torch.int64
    assert not (found.is_positive & found.is_ignored).any()
    if targets.boxes.shape[1] > 0:
        assert ((found.matched >= 0) & (found.matched < targets.boxes.shape[1])).all()
        assert targets.is_object.gather(1, found.matched)[found.is_positive].all()
    else:
        assert not (found.is_positive | found.is_ignored).any()


@given(strategies.padded_targets())
def test_main_takes_the_largest_object_and_ignores_images_without(targets: Targets) -> None:
    canvas = Priors(boxes=torch.tensor([[0.0, 0.0, 128.0, 128.0]]), level_sizes=(1,))
    found = assign.assign(targets, canvas, AssignConfig(kind="main"))
    areas = torch.where(targets.is_object, boxes.area(targets.boxes), -1)
    for image in range(len(areas)):
        has_object = bool(targets.is_object[image].any())
        assert (found.is_positive[image].item(), found.is_ignored[image].item()) == (has_object, not has_object)
        if has_object:
            assert areas[image, found.matched[image, 0]] == areas[image].max()


@given(strategies.padded_targets(), CONFIG)
def test_an_image_does_not_see_its_batch(targets: Targets, config: AssignConfig) -> None:
    together = assign.assign(targets, PRIORS, config)
    every_row = torch.arange(targets.boxes.shape[1])
    for image in range(len(targets.boxes)):
        images = slice(image, image + 1)
        alone = assign.assign(_rows(targets, images, every_row), PRIORS, config)
        expected = Assignment(
            matched=together.matched[images],
            is_positive=together.is_positive[images],
            is_ignored=together.is_ignored[images],
        )
        _assert_same(alone, expected)


@given(strategies.padded_targets(max_images=1), CONFIG)
def test_padding_changes_nothing(targets: Targets, config: AssignConfig) -> None:
    used = (targets.is_object | targets.is_crowd)[0].nonzero()[:, 0]
    bare = assign.assign(_rows(targets, slice(None), used), PRIORS, config)
    if len(used) > 0:
        bare = Assignment(matched=used[bare.matched], is_positive=bare.is_positive, is_ignored=bare.is_ignored)
    _assert_same(assign.assign(targets, PRIORS, config), bare)


@given(strategies.padded_targets(crowds=False))
def test_without_crowds_atss_ignores_nothing(targets: Targets) -> None:
    assert not assign.assign(targets, PRIORS, ATSS).is_ignored.any()


@pytest.mark.parametrize("config", [ATSS, MAX_IOU])
def test_priors_centred_in_a_crowd_region_are_ignored(config: AssignConfig) -> None:
    region = [0.0, 0.0, 128.0, 64.0]
    found = assign.assign(_targets([region], is_object=[False], is_crowd=[True]), PRIORS, config)
    x, y = boxes.centres(PRIORS.boxes).unbind(-1)
    assert not found.is_positive.any()
    assert found.is_ignored[0].tolist() == ((y > 0) & (y < 64) & (x > 0) & (x < 128)).tolist()


@pytest.mark.parametrize("config", [ATSS, MAX_IOU])
def test_an_object_in_a_crowd_region_still_teaches(config: AssignConfig) -> None:
    crowd, inside = [0.0, 0.0, 128.0, 128.0], [20.0, 20.0, 80.0, 80.0]
    with_crowd = _targets([crowd, inside], is_object=[False, True], is_crowd=[True, False])
    without = _targets([crowd, inside], is_object=[False, True], is_crowd=[False, False])
    found, expected = assign.assign(with_crowd, PRIORS, config), assign.assign(without, PRIORS, config)
    assert expected.is_positive.any()
    assert torch.equal(found.is_positive, expected.is_positive)
    assert torch.equal(found.is_ignored, ~found.is_positive)
