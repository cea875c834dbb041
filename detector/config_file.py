"""Settings as text: reading, writing, changing one by its dotted name."""

import dataclasses
import difflib
import math
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from detector import recipes, yaml_text
from detector.config import RunConfig
from detector.errors import ConfigError

Tree = dict[str, Any]
MOST_LETTERS = 1 << 18
"""Of a file: all settings are some thousand, and the parser is slow."""


def load(path: Path) -> RunConfig:
    """Read a YAML file that names some or all settings; the rest are the defaults, or those of the `recipe` it names.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, or names an unknown or ill-typed setting.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")  # noqa: TRY301 - one sentence for all that cannot be read
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_LETTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or error) if isinstance(error, OSError) else error
        cure = "name a YAML file of settings, such as the config.yaml of a run"
        raise ConfigError(f"{path}: cannot be read as a configuration ({why}); {cure}") from error
    return loads(text, source=str(path))


def loads(text: str, *, source: str) -> RunConfig:
    """Read YAML text as `load` does; `source` names it in errors."""
    if len(text) > MOST_LETTERS:
        raise ConfigError(f"{source}: is longer than {MOST_LETTERS} letters; is it a file of settings?")
    try:
        tree = yaml_text.parsed(text)
    except ValueError as error:
        raise ConfigError(f"{source}: is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: {_no_settings(tree)}")
    return _from_tree(_on_recipe(cast("Tree", tree), source), source=source)


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
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set needs KEY=VALUE, got {text!r}")
    try:
        return key.strip(), yaml_text.parsed(value)
    except ValueError as error:
        raise ConfigError(f"--set {key}: {_short(value)} is not valid YAML: {error}") from error


def parse_overrides(texts: Iterable[str]) -> dict[str, object]:
    """Settings by dotted name, the last word on each last. A group counts as so many settings of its own."""
    found: dict[str, object] = {}
    for name, value in (setting for text in texts for setting in _each(*parse_override(text))):
        found.pop(name, None)
        found[name] = value
    return found


def _each(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and _is_group(name):
        for key, one in cast("Mapping[str, object]", value).items():
            yield from _each(f"{name}.{key}", one)
    else:
        yield name, value


def _is_group(name: str) -> bool:
    kind: object = RunConfig
    for part in name.split("."):
        kind = get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return dataclasses.is_dataclass(kind)


def _no_settings(found: object) -> str:
    cure = "write one `key: value` a line"
    if found is None:
        return f"holds no settings; {cure}, or leave the file out"
    what = "a list" if isinstance(found, list) else f"the value {_short(found)} alone"
    return f"must be a mapping of settings, found {what}; {cure}"


def _on_recipe(tree: Tree, source: str) -> Tree:
    """The settings of the file on top of those of the recipe that it names, if it does."""
    name = tree.pop("recipe", None)
    if name is None:
        return tree
    if name == "auto":
        raise ConfigError(f"{source}: recipe auto is fitted to data, and no part of a file; take the line out of it")
    if name not in recipes.NAMES:
        raise ConfigError(f"{source}: recipe {_short(name)}: {nearest(str(name), list(recipes.NAMES))}")
    base = dataclasses.asdict(recipes.make(name))
    if isinstance(tree.get("length"), dict):  # of which one setting excludes the others
        base["length"] = {"evaluations": base["length"]["evaluations"]}
    return _merged(base, tree)


def _merged(base: Tree, changes: Tree) -> Tree:
    result: Tree = {**base}
    for key, value in changes.items():
        inner: Any = base.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        result[key] = _merged(cast("Tree", inner), cast("Tree", value)) if both else value
    return result


def _plain(value: Any) -> Any:
    """YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("Tree", value).items()}
    return [_plain(item) for item in cast("Sequence[Any]", value)] if isinstance(value, (tuple, list)) else value


def nearest(key: str, known: Sequence[str]) -> str:
    """What to say of a name that is not known."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def _nearest_dotted(key: str, known: list[str]) -> str:
    """Of all settings: one that ends so, or is written alike; else the groups they are in."""
    of_groups = [name for name in known if name.endswith(f".{key}")]
    if of_groups:
        return f"did you mean {' or '.join(map(repr, of_groups))}?"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    groups = dict.fromkeys(name.partition(".")[0] for name in known)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(groups)} and what is in them"


def _set_dotted(tree: Tree, dotted: str, value: object) -> None:
    known = _dotted_keys(RunConfig, tree)
    if dotted not in known:
        group = [key for key in known if key.startswith(f"{dotted}.")]
        if not group:
            raise ConfigError(f"unknown setting {dotted!r}: {_nearest_dotted(dotted, known)}")
        if not isinstance(value, Mapping):
            raise ConfigError(f"{dotted} is a group of settings; name one of them: {', '.join(group)}")
        for key, one in cast("Mapping[str, object]", value).items():
            _set_dotted(tree, f"{dotted}.{key}", one)
        return
    *parents, last = dotted.split(".")
    node: Any = tree
    for part in parents:
        # A group that is not written stands for its defaults.
        node = cast("Tree", node).setdefault(part, {}) if isinstance(node, dict) else _named(node, part)
    node[last] = value


def _named(groups: Sequence[Any], name: str) -> Tree:
    return next(group for group in cast("Sequence[Tree]", groups) if group.get("name") == name)


def _dotted_keys(group: type, tree: Tree, prefix: str = "") -> list[str]:
    """Every setting's address; the entries of a list of groups, such as the heads, go by their names.

    The tree may be incomplete or wrong: what it says is checked afterwards.
    """
    keys: list[str] = []
    for key, kind in get_type_hints(group).items():
        name = f"{prefix}{key}"
        value = tree.get(key)
        if dataclasses.is_dataclass(kind):
            inner = cast("Tree", value) if isinstance(value, dict) else {}
            keys += _dotted_keys(cast("type", kind), inner, f"{name}.")
            continue
        keys.append(name)
        entry = _entry_kind(kind)
        for item in cast("Sequence[Any]", value) if entry is not None and isinstance(value, (list, tuple)) else ():
            if isinstance(item, dict) and "name" in item:
                keys += _dotted_keys(cast("type", entry), cast("Tree", item), f"{name}.{item['name']}.")
    return keys


def _entry_kind(kind: Any) -> type | None:
    """The group that a list of groups is made of."""
    entry = get_args(kind)[0] if get_origin(kind) is tuple else None
    return cast("type", entry) if dataclasses.is_dataclass(entry) else None


def _from_tree(tree: Mapping[str, Any], *, source: str) -> RunConfig:
    from pydantic import TypeAdapter, ValidationError

    _check(RunConfig, tree, source=source)
    try:
        return TypeAdapter(RunConfig).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise ConfigError(f"{source}: {cause}") from error
        key = ".".join(str(part) for part in first["loc"])
        rule = re.sub(r", (unable|got) .*", "", first["msg"]).replace("Input should be", "must be")
        raise ConfigError(f"{source}: {key} {rule}, got {_short(first['input'])}") from error


def _check(group: type, tree: Mapping[Any, Any], *, source: str, prefix: str = "") -> None:
    """Refuse what validation alone would let through: unknown names, YAML's booleans, infinity and NaN."""
    kinds = get_type_hints(group)
    for key, value in tree.items():
        if key not in kinds:
            word = key if isinstance(key, str) else _short(key)
            raise ConfigError(f"{source}: unknown setting '{prefix}{word}': {nearest(word, list(kinds))}")
        _check_value(kinds[key], value, source=source, name=f"{prefix}{key}")


def _check_value(kind: Any, value: Any, *, source: str, name: str) -> None:
    key = f"{source}: {name}"
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} must be a mapping of settings, got {_short(value)}")
        _check(cast("type", kind), cast("Mapping[Any, Any]", value), source=source, prefix=f"{name}.")
    elif (entry := _entry_kind(kind)) is not None:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key} must be a list of groups of settings, got {_short(value)}")
        for i, item in enumerate(cast("Sequence[Any]", value)):
            _check_value(entry, item, source=source, name=f"{name}.{i}")
    else:
        _check_plain(kind, value, key)


def _check_plain(kind: Any, value: Any, key: str) -> None:
    if isinstance(value, bool) and kind is not bool:
        # YAML reads yes, no, on and off as booleans, which would pass for the numbers 1 and 0.
        raise ConfigError(f"{key}: {value} is not a value of this setting")
    _check_length(kind, value, key)
    # Comparisons let NaN through where they should not, and no setting means anything at infinity.
    items: Any = list(cast("Mapping[Any, Any]", value).values()) if isinstance(value, Mapping) else value
    for number in cast("Sequence[Any]", items) if isinstance(items, (list, tuple)) else (items,):
        if isinstance(number, bool) and kind is not bool:
            raise ConfigError(f"{key}: {number} is not a value of this setting")
        if _is_not_finite(number):
            raise ConfigError(f"{key} must be finite, got {number}")


def _check_length(kind: Any, value: Any, key: str) -> None:
    """Of a list of values."""
    if get_origin(kind) is not tuple:
        return
    kinds = get_args(kind)
    wanted = "a list" if Ellipsis in kinds else f"a list of {len(kinds)} values"
    found = len(cast("Sized", value)) if isinstance(value, (list, tuple)) else None
    if found is None or (Ellipsis not in kinds and found != len(kinds)):
        raise ConfigError(f"{key} must be {wanted}, got {_short(cast('object', value))}")


def _is_not_finite(value: object) -> bool:
    """True of infinity and NaN, written as a number or as a word that would be read as one."""
    try:
        return isinstance(value, (float, str)) and not math.isfinite(float(value))
    except ValueError:
        return False


def _short(value: object) -> str:
    """For a message: YAML's aliases can make a few hundred bytes into gigabytes of text."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxlist, brief.maxdict, brief.maxstring = 2, 4, 4, 80
    try:
        return brief.repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return type(value).__name__
