"""A result is known by the settings that it was trained with."""

from dataclasses import replace
from pathlib import Path

import pytest

from detector import recipes
from tests.unit.experiments import script

recipe_sums, auto_fit, generated = (script.load(name) for name in ("recipe_sums", "auto_fit", "generated"))


def test_the_checksum_is_that_of_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_sums.checksum(["small", "standard"])
    assert before == recipe_sums.checksum(["standard", "small", "small"]) != recipe_sums.checksum(["small"])
    changed = replace(recipes.small(), seed=5)
    monkeypatch.setattr(recipes, "small", lambda: changed)
    assert recipe_sums.checksum(["small", "standard"]) != before


def test_settings_of_auto_are_those_it_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a rule that changes makes old results void."""
    monkeypatch.setattr(auto_fit, "DATA", tmp_path / "generated")
    monkeypatch.setattr(auto_fit, "COUNTS", {"train": 3, "val": 1, "test": 1})
    auto, by_hand = auto_fit.AUTO, auto_fit.QUICKEST.row()
    words = [
        auto_fit.Training(kind=generated.SIGNS, row=row, seed=0, minutes=7.0).words() for row in (auto, by_hand, auto)
    ]
    first, hand, again = map(recipe_sums.checksum_of_training, words)
    assert first == again != hand
    monkeypatch.setattr("detector.fitting.base.MANY_IMAGES", 1)
    monkeypatch.setattr("detector.fitting.view._CUTOUT", 0.01)
    assert recipe_sums.checksum_of_training(words[0]) != first
    assert recipe_sums.checksum_of_training(words[1]) == hand
