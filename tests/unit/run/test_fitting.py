"""Facts of this machine and wishes of the user, brought to the automatic recipe."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from detector import recipes
from detector.config import LengthConfig
from detector.errors import ConfigError
from detector.fitting.choice import AutoRecipe
from detector.fitting.facts import Machine
from detector.run import fitting
from detector.train import schedule
from detector.train.distributed import World
from tests.unit.data.make import columns

COLUMNS = columns([[0], [1]] * 20)


def settled(changes: dict[str, Any], init: str = "none") -> Any:
    found, fit = fitting.settled(AutoRecipe(changes=changes), COLUMNS, World(), init)
    assert fit is not None
    assert fit.config == found
    return found


def test_settings_that_are_given_stay_as_they_are() -> None:
    assert fitting.settled(recipes.small(), COLUMNS, World(), "none") == (recipes.small(), None)


def test_what_the_user_has_decided_reaches_the_rules() -> None:
    by_name = settled({"data.image_size": 1280, "data.batch_size": 1, "length.steps": 100})
    by_group = settled({"data": {"image_size": 1280, "batch_size": 1}, "length": {"steps": 100}})
    assert by_name == by_group
    assert by_name.length == LengthConfig(steps=100)
    assert (by_name.data.image_size, by_name.optim.warmup_steps) == (1280, 5)
    assert by_name.optim.lr < recipes.small().optim.lr
    assert by_name.model.pyramid.first_level > settled({}).model.pyramid.first_level
    assert settled({"length.epochs": 2, "length.minutes": None}).length == LengthConfig(epochs=2)


def test_a_number_may_be_written_in_several_ways() -> None:
    plain = settled({"data.image_size": 128, "data.batch_size": 8, "length.steps": 5})
    assert settled({"data.image_size": 128.0, "data.batch_size": "8", "length.steps": 5.0}) == plain


def test_what_the_user_says_of_levels_and_zoom_reaches_the_rules() -> None:
    free = settled({})
    pinned = settled({"model.pyramid": {"last_level": 7}, "model.priors.scales": [8.0, 1.0, 0.5]})
    assert (pinned.model.pyramid.last_level, pinned.model.priors.scales) == (7, (8.0, 1.0, 0.5))
    first = (free.model.pyramid.first_level, pinned.model.pyramid.first_level)
    assert first == (2, 4)  # by the middle prior, of 1 stride
    with_zoom = settled({"augment.scale": [4.0, 16.0]})
    assert with_zoom.model.pyramid.last_level > free.model.pyramid.last_level
    assert with_zoom.model.pyramid.first_level == free.model.pyramid.first_level, "scored without zoom"


def test_another_batch_size_changes_what_depends_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine(kind="cuda", cores=8, memory_bytes=None, processes=1)
    monkeypatch.setattr(fitting, "machine_of", lambda world: gpu)
    many, recipe = columns([[0], [1]] * 4000), AutoRecipe(changes={"optim.momentum": 0.8})
    before, _ = fitting.settled(recipe, many, World(), "none")
    around = fitting.refit(recipe, many, World(), "none")
    assert around is not None
    after = around(128).config
    assert (before.data.batch_size, after.data.batch_size) == (16, 128)
    assert (before.length.steps, after.length.steps) == (18_000, 12_000)
    assert after.optim.lr == pytest.approx(2 * before.optim.lr)
    assert after.optim.momentum == 0.8
    said = {one.setting: one.reason for one in around(128).choices}
    assert said["data.batch_size"] == "the largest that fits"
    grouped = fitting.refit(AutoRecipe(changes={"data": {"batch_size": 8}}), many, World(), "none")
    assert grouped is not None
    assert grouped(128).config.data.batch_size == 128
    assert fitting.refit(before, many, World(), "none") is None


def test_the_rate_follows_the_optimizer() -> None:
    usual = settled({}).optim.lr
    twice = 2 * settled({}).data.batch_size
    assert settled({"data.batch_size": twice}).optim.lr == pytest.approx(2**0.5 * usual, rel=0.02)
    once, both = (settled({"data.batch_size": size, "optim.name": "sgd"}).optim.lr for size in (twice // 2, twice))
    assert both == pytest.approx(2 * once)


def test_a_share_of_the_images_is_what_the_recipe_is_fitted_to() -> None:
    found, fit = fitting.settled(
        AutoRecipe(changes={"data.share": 0.25, "length.epochs": 20}), COLUMNS, World(), "none"
    )
    assert fit is not None
    assert "10 images" in fit.about
    assert found.optim.warmup_steps == max(1, (schedule.plan(found, num_images=10).steps or 0) // 20)


def test_given_weights_reach_the_rules() -> None:
    assert settled({}, init="a.safetensors").model.norm == "frozen"


def test_the_machine_is_this_one() -> None:
    machine = fitting.machine_of(World())
    assert (machine.kind, machine.memory_bytes, machine.processes) == ("cpu", None, 1)
    assert machine.cores >= 1


def test_only_the_first_of_several_processes_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fit = fitting.settled(AutoRecipe(changes={}), COLUMNS, World(), "none")

    class Second(World):
        is_first = False

        def share(self, value: Any) -> Any:
            assert value is None
            return fit

    monkeypatch.setattr(fitting.fits, "fit", None)
    assert fitting.settled(AutoRecipe(changes={}), COLUMNS, Second(), "none")[1] is fit


def test_what_was_chosen_is_written_whole_or_refused(tmp_path: Path) -> None:
    _, fit = fitting.settled(AutoRecipe(changes={"seed": 1}), COLUMNS, World(), "none")
    assert fit is not None
    fitting.write(tmp_path, fit)
    written = json.loads((tmp_path / "fit.json").read_text())
    assert written["choices"][0] == {**dataclasses.asdict(fit.choices[0])}
    with pytest.raises(ConfigError, match="cannot be written"):
        fitting.write(tmp_path / "nowhere", fit)
