"""The one rule that settings check themselves with."""

from detector.errors import ConfigError

_SHOWN = 200  # letters of a wrong value


def require(condition: bool, key: str, rule: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{key} must be {rule}, got {_short(value)}")


def _short(value: object) -> str:
    try:
        text = str(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "one of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
