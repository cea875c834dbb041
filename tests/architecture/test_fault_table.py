"""The tests that `docs/reliability.md` names for each fault exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FAULTS = 25


def table() -> list[list[tuple[str, str]]]:
    """The tests of each fault: file and function."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    section = text.partition("\n## How it is tested\n")[2].partition("\n## ")[0]
    rows = section.partition("| what goes wrong | tests |\n|---|---|\n")[2].partition("\n\n")[0]
    return [NAME.findall(row) for row in rows.splitlines()]


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_tests_and_each_is_there() -> None:
    rows = table()
    assert len(rows) == FAULTS
    assert all(rows)
    named = {one for row in rows for one in row}
    there = {file: functions(file) for file, _ in named if (ROOT / file).is_file()}
    missing = sorted(f"{file}::{name}" for file, name in named if name not in there.get(file, ()))
    assert not missing
    assert all(name.startswith("test_") for _, name in named)
