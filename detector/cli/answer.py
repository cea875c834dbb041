"""What a command says at its end."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command has to say, for people and for programs."""

    text: str
    values: Mapping[str, object]
    notes: tuple[str, ...] = ()
    """Told on standard error, as progress is."""
    warnings: tuple[str, ...] = ()
    exit_code: int = 0
    is_said: bool = True
    """Of several processes that did the work together one says it."""
