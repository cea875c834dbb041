"""Views of an image: where their boxes lie, and what several say together."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detector import config_file, recipes
from detector.config import DecodeConfig
from detector.errors import ConfigError
from detector.model import detector as network
from detector.model import inference, views
from detector.model.detector import DetectionModel
from detector.model.model_file import TrainedModel
from detector.model.views import View
from detector.types import LabelMap, Placement, Preprocess

CANVAS = (64, 96)


@pytest.fixture
def model() -> DetectionModel:
    narrow = {f"model.heads.{name}.tower.width": 16 for name in ("classification", "box")}
    config = config_file.override(recipes.small(), narrow | {"model.pyramid.width": 16})
    made = network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=CANVAS)).eval()
    with torch.no_grad():
        for parameter in made.heads.parameters():  # as they start all boxes are alike
            parameter.normal_(std=0.2)
    return made


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 255, (2, 3, *CANVAS), dtype=torch.uint8)


def found(
    model: DetectionModel, images: Tensor, changes: dict[str, object], canvas_hw: tuple[int, int] = CANVAS
) -> list[inference.Detections]:
    config = config_file.override(recipes.small(), changes)
    trained = TrainedModel(
        model=model,
        config=config,
        label_map=LabelMap(names=("a", "b"), category_ids=(1, 2)),
        preprocess=Preprocess(canvas_hw=canvas_hw),
    )
    placements = [Placement(scale=1.0, original_hw=canvas_hw)] * len(images)
    return inference.detect(trained, images, placements, dtype=torch.float32)


def test_every_zoom_is_seen_from_both_sides() -> None:
    assert views.of(DecodeConfig()) == (View(),)
    assert views.of(DecodeConfig(zooms=(0.5, 2.0), mirror=True)) == (
        View(zoom=0.5),
        View(zoom=0.5, is_mirrored=True),
        View(zoom=2.0),
        View(zoom=2.0, is_mirrored=True),
    )


@pytest.mark.parametrize("zoom", [0.5, 1.25, 2.0])
def test_a_zoomed_view_finds_what_is_found_in_the_resized_image(
    zoom: float, model: DetectionModel, images: Tensor
) -> None:
    height, width = (round(side * zoom) for side in CANVAS)
    resized = F.interpolate(images.float(), size=(height, width), mode="bilinear", antialias=True)
    there = found(model, resized.round().to(torch.uint8), {"decode.zooms": [1.0]}, (height, width))
    here = found(model, images, {"decode.zooms": [zoom]})
    for one, other in zip(here, there, strict=True):
        assert len(one) == len(other) > 10
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.boxes, other.boxes / zoom, atol=1e-3, rtol=1e-4)
        assert torch.equal(one.labels, other.labels)


def test_the_priors_of_a_view_lie_where_its_pixels_do(model: DetectionModel, images: Tensor) -> None:
    seen = views.look(model, images, (View(), View(is_mirrored=True), View(zoom=2.0)))
    plain = model.priors(CANVAS)
    large = model.priors((128, 192))
    assert seen.num_views == 3
    assert seen.priors.level_sizes == plain.level_sizes * 2 + large.level_sizes
    first, mirrored, zoomed = seen.priors.boxes.split([len(plain.boxes)] * 2 + [len(large.boxes)])
    x0, y0, x1, y1 = plain.boxes.unbind(-1)
    assert torch.equal(first, plain.boxes)
    assert torch.equal(mirrored, torch.stack((96 - x1, y0, 96 - x0, y1), dim=-1))
    assert torch.equal(zoomed, large.boxes / 2)


def test_one_plain_view_is_the_network_itself(model: DetectionModel, images: Tensor) -> None:
    with torch.no_grad():
        seen, said = views.look(model, images, (View(),)), model(images)
    assert torch.equal(seen.prediction.logits, said.logits)
    assert torch.equal(seen.prediction.deltas, said.deltas)
    assert torch.equal(seen.priors.boxes, model.priors(CANVAS).boxes)


def test_the_same_view_twice_changes_nothing(model: DetectionModel, images: Tensor) -> None:
    once, twice = (found(model, images, {"decode.zooms": zooms}) for zooms in ([1.0], [1.0, 1.0]))
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.boxes, other.boxes)


def test_what_one_of_two_views_sees_has_half_its_score(model: DetectionModel, images: Tensor) -> None:
    alone = found(model, images, {"decode.zooms": [1.0]})
    plain = network.DetectionModel.forward

    def blind_when_large(self: DetectionModel, images: Tensor) -> network.Prediction:
        said = plain(self, images)
        return dataclasses.replace(said, logits=said.logits - 100) if images.shape[-1] > CANVAS[1] else said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network.DetectionModel, "forward", blind_when_large)
        both = found(model, images, {"decode.zooms": [1.0, 1.5]})
    for one, other in zip(alone, both, strict=True):
        half = one.scores / 2
        kept = half >= recipes.small().decode.min_score
        torch.testing.assert_close(other.scores, half[kept])
        assert kept.any()


def test_the_score_factors_of_all_views_are_there(model: DetectionModel, images: Tensor) -> None:
    plain = network.DetectionModel.forward
    factors: list[Tensor] = []

    def with_factor(self: DetectionModel, images: Tensor) -> network.Prediction:
        said = plain(self, images)
        factors.append(torch.rand(said.logits.shape[:2]))
        return dataclasses.replace(said, score_factor=factors[-1])

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(network.DetectionModel, "forward", with_factor)
        seen = views.look(model, images, (View(), View(zoom=1.5)))
    assert seen.prediction.score_factor is not None
    assert len(factors) == 2
    assert torch.equal(seen.prediction.score_factor, torch.cat(factors, dim=1))


@pytest.mark.parametrize("zooms", [[], [0.1], [1.0, 5.0], [1.0] * 9])
def test_absurd_zooms_are_refused(zooms: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"decode\.zooms"):
        config_file.override(recipes.small(), {"decode.zooms": zooms})
