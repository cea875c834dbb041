"""Plain values of YAML, and what is wrong with text that is none, in words for whoever wrote it."""

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import yaml

_ANY = "write one `key: value` a line, and indent the settings of a group by the same number of spaces"
_CURES = {
    "'\\t'": "tabs do not indent: use spaces",
    "cannot start any token": "put text that begins with this character in quotes",
    "mapping values are not allowed": "a second `: ` stands in the line, or it is indented too far: put text in quotes",
    "expected <block end>": "it is indented otherwise than the lines above: indent a group alike",
    "could not find expected ':'": "write `key: value`, with a space behind the colon",
    "while scanning a quoted": "a quotation mark is not closed: close it",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "while parsing a flow": "a bracket is not closed, or a comma is missing",
    "unknown escape character": "in double quotes a backslash begins an escape: use single quotes",
    "could not determine a constructor": "tags (!...) are not taken: write plain values",
    "no value": "there is no such number or date: put text in quotes",
    "merge keys": "merge keys (<<) are not taken: write the settings out",
    "undefined alias": "the alias (*...) has no anchor: write the value out",
    "expected a single document": "a second document (---) begins: keep one",
}


def parsed(text: str) -> object:
    """No tag makes an object, and no mapping takes others in.

    Raises:
        ValueError: it is no YAML, nested too deeply, has a key twice, or a number or date that is none; the words fit
            behind the name of the file.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            # A mapping that takes in nine times one that takes in nine times another fills any memory.
            merges = [key for key, _ in node.value if key.tag == "tag:yaml.org,2002:merge"]
            if merges:
                raise yaml.MarkedYAMLError(problem="merge keys", problem_mark=merges[0].start_mark)
            first: dict[tuple[str, str], int] = {}
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                line = first.get((key.tag, key.value))
                if line is not None:
                    # The last one would win, and the others be settings without a meaning.
                    note = f"{_brief(key.value)!r} stands twice, first in line {line + 1}: keep one"
                    raise yaml.MarkedYAMLError(problem="a key twice", problem_mark=key.start_mark, note=note)
                first[key.tag, key.value] = key.start_mark.line

        def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
            try:
                return cast("object", super().construct_object(node, deep=deep))
            except ValueError as error:
                raise yaml.MarkedYAMLError(problem="no value", problem_mark=node.start_mark) from error

    try:
        return Loader(text).get_single_data()
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position), error.position - text.rfind("\n", 0, error.position) - 1
        what = f"a character that text cannot hold (number {error.character:#06x})"
        raise ValueError(f"{_place(line, column)}: {what}: remove it") from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(_words(error, text)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply; settings are groups of groups at most") from error


def _words(error: "yaml.MarkedYAMLError", text: str) -> str:
    said = f"{error.context} {error.problem}"
    cure = error.note or next((cure for sign, cure in _CURES.items() if sign in said), _ANY)
    is_open = any(sign in said for sign in ("while scanning a quoted", "while parsing a flow"))
    mark = (error.context_mark if is_open else None) or error.problem_mark or error.context_mark
    if mark is None:
        return cure
    lines = text.splitlines()
    found = lines[mark.line].strip() if mark.line < len(lines) else ""
    shown = f" ({_brief(found)})" if found else ""
    return f"{_place(mark.line, mark.column)}{shown}: {cure}"


def _brief(text: str) -> str:
    return f"{text[:57]}..." if len(text) > 60 else text


def _place(line: int, column: int) -> str:
    return f"line {line + 1}, column {column + 1}"
