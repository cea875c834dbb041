"""Commands that the documents show exist and are spelled as the program wants them."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from detector import cli
from detector.cli import benchmarking, export_options, options, report_options, split_options

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    path
    for pattern in ("*.md", "data/**/*.md", "tools/**/*.md", "weights/**/*.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
FENCE = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"[\[\]<]|\.\.\.|\b(?:DATA|CHECKPOINT|SOURCE)\b")
PARSERS = {
    "train": options.parse_train,
    "eval": options.parse_evaluate,
    "predict": options.parse_predict,
    "split": split_options.parse_split,
    "export": export_options.parse_export,
    "report": report_options.parse_report,
    "compare": report_options.parse_compare,
    "status": report_options.parse_status,
    "replay": report_options.parse_replay,
    "benchmark": benchmarking.parse,
}
OURS = re.compile(r"(?:^|&& |; )(?:\$ )?(?:detector |make |python3? -m detector |python3? tools/)")


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command of ours in the code blocks; a synopsis is left out, and so is what a pipe goes to."""
    for language, block in FENCE.findall(text):
        if language == "text":  # what a program printed
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if OURS.search(line.strip()) and not PLACEHOLDER.search(line):
                lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                words = list(lexer)
                breaks = [at for at, word in enumerate(words) if set(word) <= set("();<>|&")]
                for start, end in pairwise([-1, *breaks, len(words)]):
                    yield words[start + 1 : end]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def check(words: list[str]) -> None:
    """Raise unless the command would start."""
    match words:
        case ["make", *targets]:
            unknown = {word for word in targets if "=" not in word and not word.startswith("-")} - make_targets()
            assert not unknown, f"no target {unknown}"
        case ["detector", command, *argv]:
            parse(command, argv)
        case ["python" | "python3", "-m", "detector", command, *argv]:
            parse(command, argv)
        case ["python" | "python3", tool, *_] if tool.startswith("tools/experiments/"):
            assert (ROOT / tool).is_file(), f"no {tool}"
        case ["python" | "python3", tool, *argv] if tool.startswith("tools/"):
            assert (ROOT / tool).is_file(), f"no {tool}"
            parse(Path(tool).stem, argv)
        case _:
            pass


def parse(command: str, argv: list[str]) -> None:
    if command == "--help" or "--help" in argv:
        assert command in {"--help", *cli.COMMANDS}
        return
    assert command in PARSERS, f"no command {command}"
    PARSERS[command](argv)


def test_every_command_in_the_documents_would_start() -> None:
    wrong: list[str] = []
    for path in DOCUMENTS:
        for words in commands(path.read_text(encoding="utf-8")):
            try:
                check(words)
            except (AssertionError, SystemExit):
                wrong.append(f"{path.relative_to(ROOT)}: {shlex.join(words)}")
    assert wrong == []


def test_a_command_is_found() -> None:
    text = "x\n```sh\n$ detector train d \\\n  --steps 3  # short\nmake demo && detector eval m d\n'\n```\n`make no`\n"
    assert list(commands(text)) == [
        ["detector", "train", "d", "--steps", "3"],
        ["make", "demo"],
        ["detector", "eval", "m", "d"],
    ]


def test_a_synopsis_is_left_out() -> None:
    assert (
        list(commands("```\ndetector train DATA [--recipe NAME]\ndetector predict CHECKPOINT SOURCE...\n```\n")) == []
    )


@pytest.mark.parametrize(
    "command",
    [
        "make nowhere",
        "detector trian d",
        "detector train d --stepz 3",
        "detector eval m d --split tset",
        "python tools/nowhere.py d",
        "python tools/experiments/nowhere.py d",
        "python -m detector train --no-such-option",
        "python tools/train.py d --lr high",
    ],
)
def test_a_wrong_command_is_seen(command: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        check(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    ["make demo", "make -j2 test PYTHON=python3.12", "detector --help", "detector train --help", "python x.py"],
)
def test_a_right_command_passes(command: str) -> None:
    check(shlex.split(command))
