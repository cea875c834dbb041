"""Shapes, starting values and what learns."""

import pytest
import torch

from detector import config_file, recipes
from detector.model import detector as network
from detector.model.detector import DetectionModel
from detector.types import Preprocess

CANVAS = (80, 112)


def build(*, num_classes: int = 3, **overrides: object) -> DetectionModel:
    config = config_file.override(recipes.small(), {key.replace("__", "."): value for key, value in overrides.items()})
    return network.build(config, num_classes=num_classes, preprocess=Preprocess(canvas_hw=CANVAS))


def canvases(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *CANVAS), dtype=torch.uint8)


@pytest.mark.parametrize("canvas", [(80, 112), (64, 64), (96, 240)])
def test_one_row_for_each_prior(canvas: tuple[int, int]) -> None:
    model = build().eval()
    images = torch.randint(0, 256, (2, 3, *canvas), dtype=torch.uint8)
    prediction = model(images)
    priors = model.priors(canvas)
    assert prediction.logits.shape == (2, len(priors.boxes), 3)
    assert prediction.deltas.shape == (2, len(priors.boxes), 4)
    assert sum(priors.level_sizes) == len(priors.boxes)


def test_rows_stand_where_their_priors_are() -> None:
    """A bright spot changes most the outputs of the priors around it."""
    model = build(model__pyramid__last_level=5, model__pyramid__first_level=3).eval()
    dark = torch.zeros(1, 3, *CANVAS, dtype=torch.uint8)
    bright = dark.clone()
    bright[..., 60:72, 96:108] = 255
    with torch.no_grad():
        change = (model(bright).logits - model(dark).logits).abs().sum(-1)[0]
    priors = model.priors(CANVAS)
    finest = priors.boxes[: priors.level_sizes[0]]
    x0, y0, x1, y1 = finest[change[: len(finest)].argmax()].tolist()
    assert abs((x0 + x1) / 2 - 102) <= 16
    assert abs((y0 + y1) / 2 - 66) <= 16


def test_every_class_starts_at_its_prior() -> None:
    logits = build(model__class_prior=0.02)(canvases()).logits
    torch.testing.assert_close(logits.sigmoid().mean(), torch.tensor(0.02), atol=0.005, rtol=0)


def test_softmax_starts_as_background() -> None:
    logits = build(loss__classification="softmax", model__class_prior=0.02)(canvases()).logits
    assert logits.shape[-1] == 4
    torch.testing.assert_close(logits.softmax(-1)[..., -1].mean(), torch.tensor(0.98), atol=0.005, rtol=0)


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_frozen_stages_neither_learn_nor_drift(stages: int) -> None:
    model = build(model__frozen_stages=stages).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(canvases()).logits.sum().backward()
    parts = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    frozen = {0: (), 1: parts[:2], 3: parts[:4]}[stages]
    for name, parameter in model.backbone.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in frozen), name
    for name, value in model.state_dict().items():
        if "running_mean" in name:
            assert torch.equal(value, before[name]) == (name.split(".")[1] in frozen), name


def test_frozen_batch_norm_has_no_parameters() -> None:
    names = {name for name, _ in build(model__norm="frozen").backbone.named_parameters()}
    assert not any("bn" in name for name in names)


def test_group_norms_look_at_each_image_alone() -> None:
    model = build(model__norm="group").train()
    assert not any("running" in name for name in model.state_dict())
    torch.manual_seed(0)
    images = torch.rand(3, 3, *CANVAS)
    together = model.backbone(images)[-1]
    alone = torch.cat([model.backbone(image[None])[-1] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_normalisation_is_that_of_the_contract() -> None:
    model = build()
    grey = torch.full((1, 3, *CANVAS), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor((0.485, 0.456, 0.406))) / torch.tensor((0.229, 0.224, 0.225))
    torch.testing.assert_close(model.normalise(grey)[0, :, 0, 0], expected)


def test_pyramid_without_the_extra_levels() -> None:
    model = build(model__pyramid__last_level=5)
    assert model.neck.strides == (8, 16, 32)
    assert [tuple(x.shape[-2:]) for x in model.trunk(torch.zeros(1, 3, *CANVAS))] == [(10, 14), (5, 7), (3, 4)]


def test_pyramid_from_level_two() -> None:
    assert build(model__pyramid__first_level=2).neck.strides == (4, 8, 16, 32, 64)
