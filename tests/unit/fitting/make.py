"""Facts for the tests of `detector.fitting`."""

from dataclasses import replace
from typing import Any

import numpy as np

from detector.config import RunConfig
from detector.fitting import fit
from detector.fitting.choice import Fit
from detector.fitting.facts import Asked, Facts, Machine

CPU = Machine(kind="cpu", cores=2)
GPU = Machine(kind="cuda", cores=16, memory_bytes=24 << 30)


def facts(**changes: Any) -> Facts:
    """Two hundred pictures of 640x480 with a middling square each, on a CPU; what is left out follows the changes."""
    follows = {"num_images": "num_with_objects", "sides": "extents"}
    changes = {follows[name]: value for name, value in changes.items() if name in follows} | changes
    changes = ({"num_classes": len(changes["seen"])} if "seen" in changes else {}) | changes
    made = Facts(
        num_images=200,
        num_with_objects=200,
        num_objects=200,
        num_classes=2,
        seen=("a", "b"),
        longer_side=640.0,
        canvas_shape=(0.75, 1.0),
        sides=np.full(200, 0.15),
        extents=np.full(200, 0.15),
        weights=np.full(200, 1 / 200),
        most_objects=1,
        overlap=0.0,
        machine=CPU,
    )
    return replace(made, **changes)


def fitted(about: Facts | None = None, changes: dict[str, Any] | None = None, **asked: Any) -> Fit:
    return fit.fit(facts() if about is None else about, Asked(**asked), changes or {})


def config(about: Facts | None = None, changes: dict[str, Any] | None = None, **asked: Any) -> RunConfig:
    return fitted(about, changes, **asked).config


def reason(found: Fit, setting: str) -> str:
    return next(one.reason for one in found.choices if one.setting == setting)
