"""Settings as text: reading, writing, changing one by its dotted name."""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from detector.config import RunConfig
from detector.errors import ConfigError

Tree = dict[str, Any]


def load(path: Path) -> RunConfig:
    """Read a YAML file that names some or all settings; the rest keep their defaults.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or names an unknown or ill-typed setting.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a configuration ({error})") from error
    return loads(text, source=str(path))


def loads(text: str, *, source: str) -> RunConfig:
    """Read YAML text as `load` does; `source` names it in errors."""
    import yaml

    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).replace("\n", " ")
        raise ConfigError(f"{source}: is not valid YAML: {reason}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: must be a mapping of settings, found {type(tree).__name__}")
    return _from_tree(cast("Mapping[str, Any]", tree), source=source)


def dump(config: RunConfig) -> str:
    """YAML text that `loads` reads back to an equal configuration."""
    import yaml

    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def override(config: RunConfig, changes: Mapping[str, object]) -> RunConfig:
    """A copy with dotted keys changed, e.g. `{"optim.lr": 1e-3}`.

    Raises:
        ConfigError: an unknown key (the nearest known one is named) or a value of the wrong kind.
    """
    tree = dataclasses.asdict(config)
    for key, value in changes.items():
        _set_dotted(tree, key, value)
    return _from_tree(tree, source="settings")


def parse_override(text: str) -> tuple[str, object]:
    """Split `key=value`, the value read as YAML."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set needs KEY=VALUE, got {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: {value!r} is not valid YAML") from error


def _plain(value: Any) -> Any:
    """YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("Tree", value).items()}
    return [_plain(item) for item in cast("tuple[Any, ...]", value)] if isinstance(value, tuple) else value


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _set_dotted(tree: Tree, dotted: str, value: object) -> None:
    known = _dotted_keys(tree)
    if dotted not in known:
        group = [key for key in known if key.startswith(f"{dotted}.")]
        if group:
            raise ConfigError(f"{dotted} is a group of settings; name one of them: {', '.join(group)}")
        raise ConfigError(f"unknown setting {dotted!r}: {_nearest(dotted, known)}")
    *parents, last = dotted.split(".")
    node = tree
    for part in parents:
        node = cast("Tree", node[part])
    node[last] = value


def _dotted_keys(tree: Tree, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        keys += _dotted_keys(cast("Tree", value), f"{name}.") if isinstance(value, dict) else [name]
    return keys


def _from_tree(tree: Mapping[str, Any], *, source: str) -> RunConfig:
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(RunConfig(), tree, source=source)
    try:
        return TypeAdapter(RunConfig).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise ConfigError(f"{source}: {cause}") from error
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{source}: {key}: {first['msg']}, got {first['input']!r}") from error


def _refuse_unknown(default: Any, tree: Mapping[Any, Any], *, source: str, prefix: str = "") -> None:
    known = [f.name for f in dataclasses.fields(default)]
    for key, value in tree.items():
        if key not in known:
            raise ConfigError(f"{source}: unknown setting '{prefix}{key}': {_nearest(str(key), known)}")
        inner = getattr(default, key)
        if dataclasses.is_dataclass(inner):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: {prefix}{key} must be a mapping of settings, got {value!r}")
            _refuse_unknown(inner, cast("Mapping[Any, Any]", value), source=source, prefix=f"{prefix}{key}.")
        elif isinstance(value, bool) and not isinstance(inner, bool):
            # YAML reads yes, no, on and off as booleans, which would pass for the numbers 1 and 0.
            raise ConfigError(f"{source}: {prefix}{key}: {value} is not a value of this setting")
