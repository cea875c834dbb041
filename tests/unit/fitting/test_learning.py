"""How the network learns."""

import dataclasses

import numpy as np
import pytest

from detector import recipes
from detector.config import LengthConfig
from detector.fitting.facts import Facts
from detector.fitting.levels import Pinned
from tests.unit.fitting.make import CPU, GPU, config, facts, fitted, reason


def test_sgd_has_a_rate_of_its_own() -> None:
    for about in (facts(), facts(machine=GPU, num_images=5000)):
        adamw = config(about).optim
        sgd = config(about, {"optim.name": "sgd"}, optimizer="sgd").optim
        assert (sgd.name, sgd.weight_decay) == ("sgd", 1e-4)
        assert sgd.lr >= 10 * adamw.lr
    assert sgd.lr == recipes.retinanet().optim.lr


def test_memory_is_that_of_the_trunk_of_the_user() -> None:
    small = facts(machine=dataclasses.replace(GPU, memory_bytes=4 << 30))
    assert config(small).data.batch_size == 8
    assert config(small, {"model.backbone": "resnet101"}, backbone="resnet101").data.batch_size == 2


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
        (facts(machine=dataclasses.replace(CPU, processes=2), num_images=10**6), LengthConfig(minutes=120)),
        (facts(num_images=800, num_with_objects=200), LengthConfig(minutes=80)),
        (facts(machine=GPU, num_images=300, num_with_objects=200), LengthConfig(steps=9000)),
        (facts(machine=GPU, num_images=100_000, num_with_objects=2500), LengthConfig(steps=225_000)),
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


def test_a_length_of_the_user_is_told_as_it_was_given() -> None:
    found = fitted(facts(), {"length.epochs": 3}, length=LengthConfig(epochs=3))
    assert reason(found, "length.epochs") == "yours"
    told = [line for line in found.lines() if line.startswith("auto: length.")]
    assert [line.split() for line in told] == [["auto:", "length.epochs", "3", "yours"]]
    assert found.config.length == LengthConfig(epochs=3)


def test_given_norms_need_no_batches() -> None:
    eight = facts(machine=dataclasses.replace(GPU, processes=8))
    assert config(eight, has_weights=True).data.batch_size == 8
    assert config(eight).data.batch_size == 32, "four for each process"
    assert config(eight, {"model.norm": "group"}, norm="group").data.batch_size == 8
    assert config(eight, {"model.norm": "batch"}, norm="batch", has_weights=True).data.batch_size == 32


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
    names = tuple(map(str, range(seen)))
    assert config(facts(seen=names)).loss.classification_weight == weight
    assert config(facts(seen=names, machine=GPU)).loss.classification_weight == weight
    many = facts(seen=names, machine=GPU, num_images=50_000)
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
