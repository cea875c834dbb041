"""A setting that was chosen for the user, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import cast

from detector import config_file
from detector.config import RunConfig

LENGTHS = ("length.epochs", "length.steps", "length.minutes")
FILE = "fit.json"
"""In a run folder: what was chosen, and why."""
_LONGEST_VALUE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRecipe:
    """Settings that are still to be fitted to the data, and the user's own among them, by dotted name."""

    changes: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One setting."""

    setting: str
    """Its name, as --set takes it."""
    value: object
    reason: str
    """A few words that go behind the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The settings of a run, and those of them that were chosen for this data set and device."""

    config: RunConfig
    choices: tuple[Choice, ...]
    about: str
    """What they were chosen for."""

    def lines(self) -> tuple[str, ...]:
        width = max((len(one.setting) for one in self.choices), default=0)
        values = [_text(one.value) for one in self.choices]
        wide = max((len(value) for value in values if len(value) <= _LONGEST_VALUE), default=0)
        rows = (
            f"auto: {one.setting:<{width}}  {value:<{wide}}  {one.reason}"
            for one, value in zip(self.choices, values, strict=True)
        )
        return (f"auto: {self.about}; another value by --set NAME=VALUE", *rows)

    def values(self) -> dict[str, object]:
        return {"about": self.about, "choices": [asdict(one) for one in self.choices]}


def settle(base: RunConfig, choices: Sequence[Choice], about: str, changes: Mapping[str, object]) -> Fit:
    """The choices on top of a recipe, and the user's own changes on top of both."""
    # The order decides: a later value wins, be it a setting's own or one in a group.
    free = [one for one in choices if one.setting not in changes and named(changes, one.setting) is None]
    own: dict[str, object] = {one.setting: one.value for one in free} | dict(changes)
    if any(named(own, name) is not None for name in LENGTHS):
        own = {name: None for name in LENGTHS if name not in own} | own  # one excludes the others of the recipe
    config = config_file.override(base, own)
    return Fit(
        config=config, choices=tuple(_with_own(one, value_of(config, one.setting)) for one in choices), about=about
    )


def named(changes: Mapping[str, object], setting: str) -> object:
    """The value that the user gave to a setting, by its own name or in a group; None where there is none."""
    if setting in changes:
        return changes[setting]
    *groups, _ = setting.split(".")
    for end in range(1, len(groups) + 1):
        group = changes.get(".".join(groups[:end]))
        if isinstance(group, Mapping):
            rest = ".".join(setting.split(".")[end:])
            found = named(cast("Mapping[str, object]", group), rest)
            if found is not None:  # else a smaller group may name it
                return found
    return None


def decided(own: int | None, chosen: Choice) -> int:
    """The user's own value, or else the one that was chosen."""
    if own is not None:
        return own
    assert isinstance(chosen.value, int)
    return chosen.value


def value_of(config: RunConfig, setting: str) -> object:
    """The value at a dotted name that leads through groups alone."""
    return reduce(getattr, setting.split("."), config)


def _with_own(one: Choice, value: object) -> Choice:
    if _plain(value) == _plain(one.value):
        return one
    return replace(one, value=_plain(value), reason=f"yours, instead of {_text(one.value)}")


def _plain(value: object) -> object:
    return list(cast("Sequence[object]", value)) if isinstance(value, tuple | list) else value


def _text(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, cast('Sequence[object]', value)))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
