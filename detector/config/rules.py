"""The one rule that settings check themselves with."""

from detector.errors import ConfigError


def require(condition: bool, key: str, rule: str, value: object) -> None:
    if not condition:
        try:
            found = str(value)
        except ValueError:  # Python writes no whole number of thousands of digits
            found = "one of thousands of digits"
        raise ConfigError(f"{key} must be {rule}, got {found}")
