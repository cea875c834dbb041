"""Choices beside what the user has set, and how they are told."""

from typing import Any

import pytest

from detector.config import LengthConfig
from detector.fitting import choice
from tests.unit.fitting.make import fitted, reason


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
        ({"data": {"crops": {}}, "data.image_size": 5}, 5),
    ],
)
def test_a_setting_of_the_user_is_found_by_any_of_its_names(changes: dict[str, Any], found: Any) -> None:
    assert choice.named(changes, "data.image_size") == found


def test_the_last_word_of_the_user_counts_whatever_was_chosen() -> None:
    """A group after a name, and a name after a group; as with a recipe of a fixed name."""
    assert fitted(changes={"optim.lr": 0.1, "optim": {"lr": 0.2}}).config.optim.lr == 0.2
    assert fitted(changes={"optim": {"lr": 0.1}, "optim.lr": 0.2}).config.optim.lr == 0.2
    timed = {"length": {"minutes": 5}}
    steps = {**timed, "length.minutes": None, "length.steps": 7}
    assert fitted(changes=timed, length=LengthConfig(minutes=5)).config.length == LengthConfig(minutes=5)
    assert fitted(changes=steps, length=LengthConfig(steps=7)).config.length == LengthConfig(steps=7)


def test_a_large_group_does_not_hide_a_small_one() -> None:
    changes = {"model": {"norm": "group"}, "model.pyramid": {"first_level": 2}}
    assert choice.named(changes, "model.pyramid.first_level") == 2
