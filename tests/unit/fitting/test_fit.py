"""The automatic recipe: what it chooses for which data and device, and what it says."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import recipes
from detector.config import LengthConfig, RunConfig
from detector.data import coco
from detector.fitting import choice, fit
from detector.fitting.choice import Fit
from detector.fitting.facts import Asked, Facts, Machine, of_columns
from detector.fitting.levels import Pinned
from tests.unit.fitting.make import CPU, GPU, facts

SMALL_GPUS = dataclasses.replace(GPU, memory_bytes=2 << 30, processes=4)
CELLS = Path(__file__).parents[3] / "data" / "blood-cells"


def fitted(about: Facts | None = None, changes: dict[str, Any] | None = None, **asked: Any) -> Fit:
    return fit.fit(facts() if about is None else about, Asked(**asked), changes or {})


def config(about: Facts | None = None, changes: dict[str, Any] | None = None, **asked: Any) -> RunConfig:
    return fitted(about, changes, **asked).config


def reason(found: Fit, setting: str) -> str:
    return next(one.reason for one in found.choices if one.setting == setting)


def differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    """Dotted names of settings that differ."""
    if not dataclasses.is_dataclass(a):
        return {prefix} if a != b else set()
    names = [field.name for field in dataclasses.fields(a)]
    return set().union(*(differences(getattr(a, n), getattr(b, n), f"{prefix}.{n}".lstrip(".")) for n in names))


def test_on_blood_cells_it_is_nearly_small() -> None:
    """Upside down is not for a machine to decide, the rate is a careful one, and hardly a cell has need of level 6."""
    columns = coco.read(CELLS / "train.json", CELLS / "images")
    made = config(of_columns(columns, CPU))
    assert differences(made, recipes.small()) == {"augment.vertical_flip", "optim.lr", "model.pyramid.last_level"}


@settings(max_examples=40)
@given(
    num_images=st.integers(1, 500_000),
    sides=st.lists(st.floats(1e-4, 1), min_size=1, max_size=20),
    longer_side=st.floats(1, 10_000),
    shape=st.tuples(st.floats(0.1, 1), st.booleans()),
    most_objects=st.integers(1, 5000),
    num_seen=st.integers(1, 5000),
    overlap=st.floats(0, 1),
    machine=st.builds(
        Machine,
        kind=st.sampled_from(["cpu", "cuda"]),
        memory_bytes=st.none() | st.integers(1 << 30, 1 << 38),
        processes=st.sampled_from([1, 2, 3, 8, 64]),
    ),
    asked=st.builds(
        Asked,
        image_size=st.none() | st.integers(64, 4096),
        batch_size=st.none() | st.integers(1, 4096),
        length=st.sampled_from([None, LengthConfig(steps=7), LengthConfig(epochs=0.5), LengthConfig(minutes=4)]),
        has_weights=st.booleans(),
    ),
)
def test_whatever_the_facts_the_settings_are_valid(
    sides: list[float], shape: tuple[float, bool], asked: Asked, **about: Any
) -> None:
    side, is_wide = shape
    made = facts(
        sides=np.array(sides),
        weights=np.full(len(sides), 1 / len(sides)),
        canvas_shape=(side, 1.0) if is_wide else (1.0, side),
        **about,
    )
    found = fit.fit(made, asked, {})
    assert asked.batch_size is not None or found.config.data.batch_size % made.machine.processes == 0
    assert len({one.setting for one in found.choices}) == len(found.choices)
    assert all(one.reason and len(line) < 150 for one, line in zip(found.choices, found.lines()[1:], strict=True))


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
        (facts(machine=dataclasses.replace(GPU, processes=3)), "resnet18", 640, 9),
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


def test_given_weights_are_kept() -> None:
    made, scratch = config(has_weights=True), config()
    assert (made.model.norm, made.model.frozen_stages, made.optim.backbone_lr_factor) == ("frozen", 2, 0.1)
    assert made.optim.lr == scratch.optim.lr == 1e-3
    many = config(facts(machine=GPU, num_images=50_000), has_weights=True)
    assert many.optim.lr == recipes.coco_1x().optim.lr < config(facts(machine=GPU, num_images=50_000)).optim.lr
    assert (many.model.norm, many.model.frozen_stages) == ("batch", 0)
    assert (scratch.model.norm, scratch.model.frozen_stages) == ("batch", 0)


def test_the_rate_follows_a_batch_of_the_user() -> None:
    usual = config().optim.lr
    assert usual == config(facts(machine=GPU)).optim.lr == 1e-3
    assert config(facts(machine=GPU), {"data.batch_size": 2}, batch_size=2).optim.lr == pytest.approx(usual / 2)
    assert config(changes={"data.batch_size": 1}, batch_size=1).optim.lr == pytest.approx(usual / 2)
    assert config(changes={"data.batch_size": 64}, batch_size=64).optim.lr == pytest.approx(usual * 2)


@pytest.mark.parametrize(
    ("about", "length"),
    [
        (facts(), LengthConfig(minutes=20)),
        (facts(num_images=20), LengthConfig(minutes=10)),
        (facts(num_images=800), LengthConfig(minutes=40)),
        (facts(num_images=10**6), LengthConfig(minutes=120)),
        (facts(machine=GPU), LengthConfig(steps=6000)),
        (facts(machine=GPU, num_images=100_000), LengthConfig(steps=225_000)),
        (facts(machine=dataclasses.replace(CPU, processes=2)), LengthConfig(steps=6000)),
    ],
)
def test_a_length_by_the_number_of_images(about: Facts, length: LengthConfig) -> None:
    assert config(about).length == length


def test_the_warm_up_knows_of_the_cut_outs() -> None:
    """Half of the run has twice as many images a step, so that three epochs of 200 are 100 steps of 4."""
    length = LengthConfig(epochs=3)
    changes = {"length.epochs": 3, "data.crops.share": 0.5}
    found = fitted(facts(), changes, length=length)
    assert found.config.optim.warmup_steps == 5
    assert reason(found, "optim.warmup_steps") == "a twentieth of 100 steps, in which the rate rises"


def test_a_length_of_the_user_decides_the_warm_up() -> None:
    made = config(changes={"length.steps": 100}, length=LengthConfig(steps=100))
    assert (made.length, made.optim.warmup_steps) == (LengthConfig(steps=100), 5)
    assert config(changes={"length.minutes": 3}).optim.warmup_steps == recipes.small().optim.warmup_steps


@pytest.mark.parametrize(("name", "flip"), [("left-hand", 0), ("Turn RIGHT", 0), ("cleft", 0.5), ("bright", 0.5)])
def test_names_may_forbid_a_flip(name: str, flip: float) -> None:
    made = config(facts(classes=("a", name)))
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


def test_norms_of_given_weights_are_learned_anew_from_many_images_a_step() -> None:
    many = facts(machine=GPU, num_images=50_000)
    two = facts(machine=dataclasses.replace(GPU, processes=2), num_images=50_000)
    for about, size, norm in ((many, 7, "frozen"), (many, 8, "batch"), (two, 14, "frozen"), (two, 16, "batch")):
        changes = {"data.batch_size": size}
        made = config(about, changes, batch_size=size, has_weights=True)
        if norm == "frozen":
            said = reason(fitted(about, changes, batch_size=size, has_weights=True), "model.norm")
            assert said.endswith("8 images a step for each process" if about is two else "8 images a step")
        assert (made.model.norm, made.model.frozen_stages, made.optim.backbone_lr_factor) == (norm, 0, 1.0)


def test_larger_images_take_longer() -> None:
    usual = config(facts()).length.minutes
    assert config(facts(), {"data.image_size": 640}, image_size=640).length.minutes == 2 * (usual or 0)
    assert config(facts(), {"data.image_size": 160}, image_size=160).length.minutes == usual


@pytest.mark.parametrize(("seen", "weight"), [(1, 1.0), (3, 1.0), (6, 1.0), (8, 1.5), (11, 2.0), (15, 3.0), (90, 3.0)])
def test_the_loss_of_many_classes_weighs_more(seen: int, weight: float) -> None:
    assert config(facts(num_seen=seen)).loss.classification_weight == weight
    assert config(facts(num_seen=seen, machine=GPU)).loss.classification_weight == weight
    many = facts(num_seen=seen, machine=GPU, num_images=50_000)
    assert config(many).loss == recipes.standard().loss, "made for COCO's eighty"


def test_level_2_takes_longer() -> None:
    """Half as long again, whoever decided on it."""
    minutes = config(facts()).length.minutes or 0
    fine = facts(sides=np.full(200, 0.03))
    assert config(fine, {"data.image_size": 320}, image_size=320).length.minutes == 1.5 * minutes
    pinned = {"data.image_size": 320, "model.pyramid.first_level": 3}
    assert config(fine, pinned, image_size=320, levels=Pinned(first=3)).length.minutes == minutes
    asked = config(facts(), {"model.pyramid.first_level": 2}, levels=Pinned(first=2))
    assert asked.length.minutes == 1.5 * minutes


def test_what_the_user_sets_wins_and_is_said() -> None:
    found = fitted(changes={"optim.lr": 0.5, "model.pyramid": {"last_level": 7}, "seed": 3})
    assert (found.config.optim.lr, found.config.model.pyramid.last_level, found.config.seed) == (0.5, 7, 3)
    assert reason(found, "optim.lr") == "yours, instead of 0.001"
    assert reason(found, "model.pyramid.last_level") == "yours, instead of 5"
    assert "yours" not in reason(found, "model.pyramid.first_level")
    same = fitted(changes={"optim.lr": 1e-3})
    assert reason(same, "optim.lr") == "a third of that of recipe small: safer on unknown data"


def test_lines_stand_in_columns() -> None:
    found = fitted()
    first, *rows = found.lines()
    assert first == (
        "auto: recipe small, fitted to 200 images with 200 objects of 2 classes, and to a CPU of 2 cores; "
        "another value by --set NAME=VALUE"
    )
    starts = {row.index(one.reason) for row, one in zip(rows, found.choices, strict=True)}
    assert len(starts) == 1
    assert f"auto: {'data.image_size':<26}  320       about 320x240" in "\n".join(rows)


def test_values_for_a_file() -> None:
    made = fitted(changes={"model.priors.scales": (2, 4)}).values()
    rows = {row["setting"]: row for row in made["choices"]}
    assert rows["model.priors.scales"]["value"] == [2.0, 4.0]
    assert rows["model.priors.scales"]["reason"].startswith("yours, instead of [")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, None),
        ({"data.image_size": 3}, 3),
        ({"data": {"image_size": 4}}, 4),
        ({"data": {"batch_size": 4}}, None),
        ({"data": 7}, None),
    ],
)
def test_a_setting_of_the_user_is_found_by_any_of_its_names(changes: dict[str, Any], found: Any) -> None:
    assert choice.named(changes, "data.image_size") == found
