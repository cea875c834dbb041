"""What the network sees, where it looks, and what it tells."""

import dataclasses

import numpy as np
import pytest

from detector import recipes
from detector.fitting.facts import Facts
from detector.fitting.levels import Pinned
from tests.unit.fitting.make import CPU, GPU, config, facts, fitted, reason


@pytest.mark.parametrize(
    ("about", "backbone", "size", "batch"),
    [
        (facts(), "resnet18", 320, 4),
        (facts(machine=GPU), "resnet18", 640, 8),
        (facts(machine=GPU, num_images=5000), "resnet50", 640, 16),
        (facts(machine=CPU, num_images=5000), "resnet18", 320, 4),
        (facts(longer_side=200.0), "resnet18", 224, 4),
        (facts(longer_side=20.0), "resnet18", 128, 4),
        (facts(machine=dataclasses.replace(GPU, memory_bytes=2 << 30), num_images=5000), "resnet50", 640, 2),
        (facts(machine=dataclasses.replace(GPU, processes=3)), "resnet18", 640, 12),
        (facts(machine=dataclasses.replace(CPU, processes=4)), "resnet18", 320, 16),
        (facts(machine=GPU, num_images=5000, num_with_objects=3), "resnet18", 640, 8),
        (
            facts(machine=dataclasses.replace(GPU, memory_bytes=2 << 30, processes=4), num_images=5000),
            "resnet50",
            640,
            8,
        ),
    ],
)
def test_trunk_size_and_batch(about: Facts, backbone: str, size: int, batch: int) -> None:
    made = config(about)
    assert (made.model.backbone, made.data.image_size, made.data.batch_size) == (backbone, size, batch)


@pytest.mark.parametrize(("side", "size", "first"), [(0.08, 320, 3), (0.05, 320, 2), (0.03, 416, 2), (0.025, 512, 2)])
def test_small_objects_get_level_2_and_tiny_ones_a_larger_canvas(side: float, size: int, first: int) -> None:
    made = config(facts(sides=np.full(200, side)))
    assert (made.data.image_size, made.model.pyramid.first_level) == (size, first)


def test_levels_follow_an_image_size_of_the_user() -> None:
    made = config(facts(sides=np.full(200, 0.08)), {"data.image_size": 128}, image_size=128)
    assert (made.data.image_size, made.model.pyramid.first_level) == (128, 2)


@pytest.mark.parametrize(
    ("setting", "value", "pinned"),
    [
        ("model.pyramid.first_level", 2, Pinned(first=2)),
        ("model.pyramid.last_level", 7, Pinned(last=7)),
    ],
)
def test_the_priors_that_are_told_follow_the_levels_of_the_user(setting: str, value: int, pinned: Pinned) -> None:
    found = fitted(facts(sides=np.full(200, 0.15)), {setting: value}, levels=pinned)
    pyramid, (scale,) = found.config.model.pyramid, found.config.model.priors.scales
    assert "yours, instead of" in reason(found, setting)
    sides = [f"{scale * 2**level:.0f}" for level in range(pyramid.first_level, pyramid.last_level + 1)]
    assert reason(found, "model.priors.scales").startswith(f"priors of {', '.join(sides)} px")


def test_levels_follow_a_prior_size_of_the_user() -> None:
    wide = facts(sides=np.geomspace(0.07, 0.45, 200))
    found = fitted(wide, {"model.priors.scales": [2.0]}, prior_scale=2.0)
    pyramid, usual = found.config.model.pyramid, fitted(wide).config.model.pyramid
    assert (pyramid.first_level, pyramid.last_level) == (usual.first_level, usual.last_level + 1)
    assert reason(found, "model.priors.scales") == "yours, instead of [4]"


def test_priors_are_those_of_the_recipe() -> None:
    assert config().model.priors == recipes.small().model.priors
    many = fitted(facts(machine=GPU, num_images=5000))
    assert many.config.model.priors == recipes.standard().model.priors != recipes.small().model.priors
    assert (many.config.model.pyramid.first_level, many.config.model.pyramid.last_level) == (3, 5)
    assert reason(many, "model.priors.scales") == "priors of 64, 128, 256 px; the middle object has 96 px"


def test_levels_know_how_far_pictures_are_zoomed() -> None:
    wide = facts(sides=np.geomspace(0.07, 0.45, 200))
    usual, still = fitted(wide), fitted(wide, {"augment.scale": [1.0, 1.0]}, zoom=(1.0, 1.0))
    assert still.config.model.pyramid.last_level < usual.config.model.pyramid.last_level
    assert "when zoomed in" in reason(usual, "model.pyramid.last_level")
    for setting in ("model.pyramid.first_level", "model.pyramid.last_level"):
        assert "when zoomed" not in reason(still, setting)


def test_the_priors_that_are_told_are_those_of_the_levels() -> None:
    found = fitted(facts(sides=np.full(200, 0.15)))
    pyramid, (scale,) = found.config.model.pyramid, found.config.model.priors.scales
    sides = [f"{scale * 2**level:.0f}" for level in range(pyramid.first_level, pyramid.last_level + 1)]
    assert reason(found, "model.priors.scales") == f"priors of {', '.join(sides)} px; the middle object has 48 px"


def test_large_objects_are_not_cut_out() -> None:
    assert config().data.crops.share == recipes.small().data.crops.share > 0
    assert config(facts(sides=np.full(200, 0.6))).data.crops.share == 0
    some = np.where(np.arange(200) < 20, 0.6, 0.1)  # a tenth
    assert config(facts(sides=some)).data.crops.share == 0
    assert config(facts(machine=GPU)).data.crops.share == 0


def test_long_objects_would_be_cut_however_thin() -> None:
    lines = facts(sides=np.full(200, 0.2), extents=np.full(200, 0.9))
    assert config(lines).data.crops.share == 0
    assert reason(fitted(lines), "data.crops.share").startswith("whole images: objects reach 90% of the canvas")


def test_what_stays_tiny_does_not_ask_for_a_larger_canvas() -> None:
    found = fitted(facts(sides=np.full(200, 0.001), longer_side=4000.0))
    assert found.config.data.image_size == 320
    said = "objects under 12 px: 100%; cut pictures into 96 px tiles"
    assert reason(found, "data.image_size").endswith(said)  # in which those 4 px are 13 of 320
    assert reason(found, "model.priors.scales").endswith("the middle object has 0.3 px")
    some = np.where(np.arange(200) < 100, 0.001, 0.025)  # half are lifted by the largest
    assert config(facts(sides=some, longer_side=4000.0)).data.image_size == 512


def test_pictures_of_several_shapes_have_a_square() -> None:
    told = reason(fitted(facts(canvas_shape=(1.0, 1.0))), "data.image_size")
    assert told.startswith("about 320x320, a square takes any shape; ")


@pytest.mark.parametrize(("name", "flip"), [("left-hand", 0), ("Turn RIGHT", 0), ("LeftShoe", 0), ("cleft", 0.5)])
def test_names_may_forbid_a_flip(name: str, flip: float) -> None:
    made = config(facts(seen=("a", name)))
    assert (made.augment.horizontal_flip, made.augment.vertical_flip) == (flip, 0)


@pytest.mark.parametrize(
    ("most", "overlap", "kept", "candidates", "iou"),
    [(7, 0.1, 100, 1000, 0.6), (120, 0.55, 250, 2500, 0.65), (4000, 0.9, 1000, 10_000, 0.75)],
)
def test_crowded_pictures_keep_more(most: int, overlap: float, kept: int, candidates: int, iou: float) -> None:
    made = config(facts(most_objects=most, overlap=overlap)).decode
    assert (made.max_detections, made.candidates, made.nms_iou) == (kept, candidates, iou)


@pytest.mark.parametrize(
    ("overlap", "said"), [(0.004, "hardly ever overlap"), (0.006, "by IoU 0.01 or more"), (0.3, "by IoU 0.30 or more")]
)
def test_an_overlap_is_told_only_where_there_is_one(overlap: float, said: str) -> None:
    assert reason(fitted(facts(overlap=overlap)), "decode.nms_iou").endswith(said)
