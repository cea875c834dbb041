"""Calls that run code out of data, or a shell, stand nowhere in the package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "detector").rglob("*.py"), *(ROOT / "tools").glob("*.py")])

# Names that say it all wherever they are called, as the last parts of what is written before the parenthesis.
CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "marshal.loads",
    "numpy.load",
    "np.load",
    "torch.hub.load",
}
ARGUMENTS = {("weights_only", False), ("shell", True), ("allow_pickle", True), ("trust_remote_code", True)}


def findings(source: str) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        constants = {(k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
        if called in CALLS:
            found.append(called)
        if called.endswith("torch.load") and ("weights_only", True) not in constants:
            found.append("torch.load without weights_only=True")
        found += [f"{name}={value}" for name, value in sorted(ARGUMENTS & constants)]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_forbidden_call(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec('1')",
        "os.system('ls')",
        "pickle.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "subprocess.run('ls', shell=True)",
        "np.load(f)",
    ],
)
def test_the_rule_sees(source: str) -> None:
    assert findings(source)


@pytest.mark.parametrize("source", ["model.eval()", "yaml.safe_load(f)", "torch.load(f, weights_only=True)"])
def test_the_rule_lets_pass(source: str) -> None:
    assert findings(source) == []
