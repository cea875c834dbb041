"""Which head reads which, and what all heads say together."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from detector.config import DecodeConfig, HeadConfig
from detector.errors import ConfigError
from detector.geometry import codec
from detector.model import head_set
from detector.model.decode import CanvasDetections, pack, unpack
from detector.model.detector import DetectionModel
from detector.model.heads import CustomHead
from detector.types import Prediction, PriorTargets
from tests.unit.train import make


def entry(name: str, kind: str, source: str = "trunk", **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "input": source, "tower": {"depth": 1, "width": 16}, **more}


CLASSES, BOX = entry("classes", "classification"), entry("box", "box")
REFINED = entry("refined", "box", "box")
QUALITY = entry("quality", "quality")


def build(*heads: dict[str, Any], **changes: Any) -> DetectionModel:
    """With weights large enough for every head to have something to say."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    model = make.model(make.config({"model.heads": list(heads), **dotted})).double().eval()
    with torch.no_grad():
        for head in model.heads.configs:
            model.heads.head(head).output.weight.normal_(std=0.05)
    return model


def levels_of(model: DetectionModel) -> list[Tensor]:
    images = make.batch(2).images
    return [level.detach().requires_grad_() for level in model.trunk(model.normalise(images))]


def predict(model: DetectionModel) -> Prediction:
    return model(make.batch(2).images)


# Groups


def names(*heads: tuple[str, str, str]) -> list[tuple[str, ...]]:
    configs = [HeadConfig(name=name, kind=kind, input=source) for name, kind, source in heads]  # pyright: ignore
    return [tuple(head.name for head in group) for group in head_set.groups(configs)]


def test_parallel_heads_are_groups_of_their_own_the_box_head_first() -> None:
    classes, box = ("classes", "classification", "trunk"), ("box", "box", "trunk")
    quality = ("quality", "quality", "trunk")
    for order in permutations((classes, box, quality)):
        found = names(*order)
        assert found[0] == ("box",)
        assert found[1:] == [(head[0],) for head in order if head is not box]


def test_heads_that_read_one_another_are_one_group_in_their_order() -> None:
    found = names(
        ("classes", "classification", "trunk"),
        ("first", "box", "trunk"),
        ("quality", "quality", "classes"),
        ("last", "box", "first"),
        ("alone", "quality", "trunk"),
        ("deep", "quality", "last"),
    )
    assert found == [("first", "last", "deep"), ("classes", "quality"), ("alone",)]


def test_the_last_box_head_decides_which_group_is_first() -> None:
    found = names(("first", "box", "trunk"), ("classes", "classification", "first"), ("other", "box", "trunk"))
    assert found == [("other",), ("first", "classes")]


# Cascades


@pytest.mark.parametrize("gradient", ["full", "detach"])
def test_a_cascade_reads_the_features_of_the_head_before_it(gradient: str) -> None:
    model = build(CLASSES, BOX | {"input": "classes"}, model__cascade_gradient=gradient)
    before = predict(model)
    upstream = model.heads.head_named("classes").tower[0]
    loss = before.deltas.square().sum()
    loss.backward()
    learns = upstream.weight.grad is not None and bool((upstream.weight.grad != 0).any())
    assert learns == (gradient == "full")
    assert model.heads.head_named("classes").output.weight.grad is None  # it reads the features, not the answer
    with torch.no_grad():
        upstream.weight.mul_(-1)
    assert not torch.allclose(predict(model).deltas, before.deltas)


def test_parallel_heads_do_not_hear_one_another() -> None:
    model = build(CLASSES, BOX)
    before = predict(model)
    with torch.no_grad():
        model.heads.head_named("classes").tower[0].weight.mul_(-1)
    after = predict(model)
    assert torch.equal(after.deltas, before.deltas)
    assert not torch.allclose(after.logits, before.logits)


def test_the_gradient_of_each_head_returns_to_its_own_copy_of_the_features() -> None:
    """A cascade's upstream features carry the gradient to the copy of the head that made them."""
    model = build(CLASSES, BOX | {"input": "classes"})
    (group,) = model.heads.groups
    first, second = levels_of(model), levels_of(model)
    rows = model.heads.rows(group, [first, second])
    of_second = torch.autograd.grad(rows[1].square().sum(), [*first, *second], retain_graph=True)
    assert all((gradient != 0).any() for gradient in of_second)
    of_first = torch.autograd.grad(rows[0].square().sum(), [*first, *second], allow_unused=True)
    assert all(gradient is None for gradient in of_first[len(first) :])


# What the heads say together


def decoded(model: DetectionModel, prediction: Prediction) -> list[CanvasDetections]:
    found = Prediction(
        logits=prediction.logits.float(),
        deltas=prediction.deltas.float(),
        score_factor=None if prediction.score_factor is None else prediction.score_factor.float(),
    )
    packed = pack(
        found,
        model.priors(make.HW),
        torch.tensor([make.HW, make.HW]).float(),
        classification="quality",
        delta_std=model.heads.delta_std,
        config=DecodeConfig(min_score=0.0, nms_iou=1.0, candidates=10_000, max_detections=10_000),
    )
    return unpack(packed)


@torch.no_grad()
def test_the_quality_head_scales_the_scores() -> None:
    model = build(CLASSES, BOX, QUALITY, entry("second", "quality"))
    prediction = predict(model)
    (of_box, classes, first, second) = model.heads.groups
    assert (of_box[0].name, classes[0].name, first[0].name, second[0].name) == ("box", "classes", "quality", "second")
    levels = model.trunk(model.normalise(make.batch(2).images))
    factor = torch.ones(2, len(model.priors(make.HW).boxes), dtype=torch.float64)
    for group in (first, second):
        (rows,) = model.heads.rows(group, [levels])
        factor *= rows[..., 0].float().sigmoid()
    assert prediction.score_factor is not None
    torch.testing.assert_close(prediction.score_factor.double(), factor, rtol=1e-5, atol=1e-6)
    scores = (prediction.logits.sigmoid() * factor[..., None]).float()
    for image, found in enumerate(decoded(model, prediction)):
        expected = scores[image].flatten().sort(descending=True).values[: len(found.scores)]
        torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-6)


def test_without_a_judge_there_is_no_factor() -> None:
    assert predict(build(CLASSES, BOX)).score_factor is None


@torch.no_grad()
def test_refined_boxes_are_offsets_from_the_first_boxes_written_as_offsets_from_the_priors() -> None:
    model = build(BOX, REFINED, CLASSES | {"input": "refined"})
    assert model.heads.last_box == "refined"
    assert [model.heads.refines(head) for head in model.heads.configs] == [False, True, False]
    priors, std = model.priors(make.HW).boxes, model.heads.delta_std
    (group,) = model.heads.groups
    levels = model.trunk(model.normalise(make.batch(2).images))
    first, second, _ = (rows.float() for rows in model.heads.rows(group, [levels] * 3))
    expected = codec.decode(second, codec.decode(first, priors, std), std)
    assert (expected - codec.decode(first, priors, std)).abs().max() > 0.1
    found = codec.decode(predict(model).deltas.float(), priors, std)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_found_boxes_of_a_group() -> None:
    model = build(BOX, REFINED, CLASSES | {"input": "refined"})
    priors = model.priors(make.HW).boxes
    (group,) = model.heads.groups
    rows = model.heads.rows(group, [levels_of(model)] * 3)
    first, second, none = head_set.found_boxes(group, rows, priors, model.heads.delta_std)
    assert none is None
    assert first is not None
    assert second is not None
    boxes = (first, second, none)
    assert head_set.references(group, 0, boxes, priors) is priors
    assert head_set.references(group, 1, boxes, priors) is first
    torch.testing.assert_close(second, codec.decode(rows[1].float(), first, model.heads.delta_std))


class Halves(CustomHead):
    """Halves every score."""

    def loss(self, rows: Tensor, targets: PriorTargets, found: Tensor) -> Tensor:
        return rows.sum()

    def score_factor(self, rows: Tensor) -> Tensor:
        return torch.full_like(rows[..., 0], 0.5)


class Silent(CustomHead):
    def loss(self, rows: Tensor, targets: PriorTargets, found: Tensor) -> Tensor:
        return rows.sum()


def test_a_custom_head_may_scale_the_scores() -> None:
    silent = entry("silent", "custom", factory=f"{__name__}:Silent")
    assert predict(build(CLASSES, BOX, silent)).score_factor is None
    factor = predict(build(CLASSES, BOX, silent, entry("halves", "custom", factory=f"{__name__}:Halves"))).score_factor
    assert factor is not None
    assert (factor == 0.5).all()


@pytest.mark.parametrize("name", ["half", "type", "keys", "training", "groups", "configs"])
def test_a_name_that_torch_keeps_to_itself_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.heads\.{name}: the name is taken"):
        build(CLASSES, BOX | {"name": name})


def test_names_in_the_state_dict_are_those_of_the_configuration() -> None:
    model = build(CLASSES, BOX, QUALITY)
    parts = {name.split(".")[1] for name in model.state_dict() if name.startswith("heads.")}
    assert parts == {"classes", "box", "quality"}
