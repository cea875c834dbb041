"""What tyro says of a wrong option, in one line of our own words."""

import re
from collections.abc import Callable

_RULE = re.compile(r"[╭╰].*|[\s│─-]*")
_KINDS = {"INT": "a whole number", "FLOAT": "a number"}


def in_one_line(said: str, prog: str) -> str:
    """The cause and the cure. What is not known is told in tyro's words.

    Args:
        said: A box of tyro, or the same without lines where those cannot be printed.
        prog: Command that was typed.
    """
    lines = [line.strip(" │") for line in said.splitlines() if not _RULE.fullmatch(line)]
    text, _, _ = " ".join(" ".join(lines).split()).partition(" For full helptext")
    for pattern, told in _CAUSES:
        if found := pattern.search(text):
            return told(found, prog)
    return f"{text}; {_help(prog)}"


def _value(found: re.Match[str], _: str) -> str:
    option, kinds, value = found.groups()
    wanted = " or ".join(_KINDS.get(kind, kind.strip("{}")) for kind in kinds.split("|"))
    return f"{option} must be {wanted}, got {value}"


def _choice(found: re.Match[str], _: str) -> str:
    value, option, choices = found.groups()
    return f"{option} must be one of {choices.replace(chr(39), '').rstrip(',')}, got {value}"


def _no_value(found: re.Match[str], _: str) -> str:
    return f"{found[1]} needs a value"


def _together(found: re.Match[str], _: str) -> str:
    return f"{found[1]} and {found[2]} exclude each other; keep one"


def _not_understood(found: re.Match[str], prog: str) -> str:
    words, meant, commands = found.groups()
    cure = f"did you mean {meant}?" if meant else f"known: {commands}" if commands else _help(prog)
    return f"not understood: {words}; {cure}"


def _missing(found: re.Match[str], prog: str) -> str:
    names = [about.split()[0] for about in found[1].split("(required)") if about.strip()]
    return f"{prog} needs {' and '.join(names)}; {_help(prog)}"


def _no_command(found: re.Match[str], prog: str) -> str:
    return f"{prog} needs one of {found[1]}"


def _help(prog: str) -> str:
    return f"{prog} --help lists what there is"


_CAUSES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], str]], ...] = (
    (re.compile(r"Error parsing (\S+): no type matching (\S+) could be instantiated from \[(.*?)\]\."), _value),
    (re.compile(r"invalid choice (.+) for argument '(\S+)'\. Expected one of \((.+?)\)\."), _choice),
    (re.compile(r"Missing value for argument '(\S+)'\."), _no_value),
    (re.compile(r"Arguments (\S+) and (\S+) are not allowed together"), _together),
    (
        re.compile(r"Unrecognized options: (.+?)(?: Perhaps you meant: (\S+).*)?(?: Available subcommands: (.+))?$"),
        _not_understood,
    ),
    (re.compile(r"Missing from [^:]+: (.+)"), _missing),
    (re.compile(r"Expected one of \{(.+?)\}"), _no_command),
)
