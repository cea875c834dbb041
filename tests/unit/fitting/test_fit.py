"""The automatic recipe as a whole."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import recipes
from detector.config import LengthConfig
from detector.data import coco
from detector.fitting import choice, fit
from detector.fitting.facts import Asked, Machine, of_columns
from detector.fitting.levels import Pinned
from tests.unit.fitting.make import CPU, config, facts, fitted

CELLS = Path(__file__).parents[3] / "data" / "blood-cells"


def differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    """Dotted names of settings that differ."""
    if not dataclasses.is_dataclass(a):
        return {prefix} if a != b else set()
    names = [field.name for field in dataclasses.fields(a)]
    return set().union(*(differences(getattr(a, n), getattr(b, n), f"{prefix}.{n}".lstrip(".")) for n in names))


def changes_of(asked: Asked) -> dict[str, object]:
    """What the user has typed who asked for this."""
    length = {} if asked.length is None else dataclasses.asdict(asked.length)
    scales = None if asked.prior_scale is None else (asked.prior_scale,)
    wished = {
        "data.image_size": asked.image_size,
        "data.batch_size": asked.batch_size,
        "augment.scale": asked.zoom,
        "model.pyramid.first_level": asked.levels.first,
        "model.pyramid.last_level": asked.levels.last,
        "model.backbone": asked.backbone,
        "model.priors.scales": scales,
        "optim.name": asked.optimizer,
        **{f"length.{name}": length.get(name) for name in ("steps", "epochs", "minutes")},
    }
    return {name: value for name, value in wished.items() if value is not None}


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
    seen=st.integers(1, 500).map(lambda count: tuple(map(str, range(count)))),
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
        zoom=st.sampled_from([None, (0.2, 0.4), (1.0, 1.0), (3.0, 9.0)]),
        levels=st.builds(Pinned, first=st.none() | st.integers(2, 4), last=st.none() | st.integers(6, 7)),
        backbone=st.sampled_from([None, "resnet34", "resnet101"]),
        prior_scale=st.none() | st.floats(0.5, 16),
        optimizer=st.sampled_from(["adamw", "sgd"]),
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
    changes = changes_of(asked)
    found = fit.fit(made, asked, changes)
    assert asked.batch_size is not None or found.config.data.batch_size % made.machine.processes == 0
    assert len({one.setting for one in found.choices}) == len(found.choices)
    assert all(one.reason and len(line) < 150 for one, line in zip(found.choices, found.lines()[1:], strict=True))
    assert {name: choice.value_of(found.config, name) for name in changes} == changes


def test_pictures_and_classes_without_objects_are_told() -> None:
    about = fitted(facts(num_images=5000, num_with_objects=3, seen=("a",), num_classes=90)).about
    assert about.startswith("recipe small, fitted to 3 of 5,000 images with 200 objects of 1 of 90 classes, ")
