"""The one rule that settings check themselves with."""

from detector.errors import ConfigError


def require(condition: bool, key: str, rule: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"{key} must be {rule}, got {value}")
