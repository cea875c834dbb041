"""The recipe that is fitted."""

from dataclasses import dataclass
from typing import Literal

from detector import recipes
from detector.config import RunConfig
from detector.fitting.facts import Facts

MANY_IMAGES = 2000
"""With objects. From here on a GPU trains a ResNet-50."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """One of the two recipes."""

    name: Literal["small", "standard"]
    config: RunConfig

    @property
    def is_large(self) -> bool:
        return self.name == "standard"


def of(facts: Facts) -> Base:
    if facts.machine.kind == "cuda" and facts.num_with_objects >= MANY_IMAGES:
        return Base(name="standard", config=recipes.standard())
    return Base(name="small", config=recipes.small())
