"""Modules and functions stay short enough to be read in one go; a tool is a door, not a room."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
SOURCES = [*sorted((ROOT / "detector").rglob("*.py")), *TOOLS]
MODULE_LINES = 400
FUNCTION_LINES = 50
TOOL_LINES = 15


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def long_functions(source: str, limit: int) -> list[str]:
    """Functions of more than `limit` lines, decorators not counted."""
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [node.name for node in functions if (node.end_lineno or node.lineno) - node.lineno + 1 > limit]


def test_the_sources_are_found() -> None:
    assert ROOT / "detector" / "cli" / "doors.py" in SOURCES
    assert {path.stem for path in TOOLS} >= {"train", "eval", "predict"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_are_short(path: Path) -> None:
    assert long_functions(path.read_text(encoding="utf-8"), FUNCTION_LINES) == []


def test_the_function_rule_counts_lines() -> None:
    source = "class A:\n    def method(self):\n        a = 1\n        return a\n\n\nasync def other():\n    pass\n"
    assert long_functions(source, 2) == ["method"]
    assert long_functions(source, 1) == ["other", "method"]
    assert long_functions(source, 3) == []


@pytest.mark.parametrize("path", TOOLS, ids=name_of)
def test_a_tool_only_opens_the_command_line(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(source.splitlines()) <= TOOL_LINES
    assert ast.get_docstring(tree)
    assert [node.module for node in imports if isinstance(node, ast.ImportFrom)] == ["detector.cli"]
    assert len(imports) == 1
