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
    "compile",
    "__import__",
    "os.execv",
    "os.execve",
    "os.execvp",
    "os.spawnv",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "marshal.loads",
    "numpy.load",
    "np.load",
    "torch.hub.load",
    "torch.jit.load",
    "joblib.load",
    "tempfile.mktemp",
    "shutil.unpack_archive",
    "tarfile.open",
}
# Whatever they are called on: names in an archive lead where its writer likes.
METHODS = {"extractall", "extract"}
# Where a call or module of this name is allowed: once, with a reason there.
ONLY_IN = {
    "torch.load": {"detector/model/torch_file.py"},
    "importlib.import_module": {"detector/cli/doors.py"},
    "subprocess": {"detector/benchmark/contest.py", "detector/benchmark/environment.py"},
    "socket": {"detector/train/run_status.py"},
}
# Modules that run what they read, fetch, start, or write cells that a spreadsheet takes for formulas.
MODULES = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "csv", "urllib", "http", "requests", "httpx",
    "ftplib", "smtplib", "telnetlib", "xmlrpc", "webbrowser", "ctypes", "pty", "code", "tarfile", "xml",
}  # fmt: skip
ARGUMENTS = {("weights_only", False), ("shell", True), ("allow_pickle", True), ("trust_remote_code", True)}


def findings(source: str, place: str = "") -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += _imports(node, place)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        constants = {(k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
        is_method = isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        if called in CALLS or is_method or place not in ONLY_IN.get(called, {place}):
            found.append(called)
        if called.endswith("torch.load") and ("weights_only", True) not in constants:
            found.append("torch.load without weights_only=True")
        found += [f"{name}={value}" for name, value in sorted(ARGUMENTS & constants)]
    return found


def _imports(node: ast.Import | ast.ImportFrom, place: str) -> list[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    tops = [name.partition(".")[0] for name in names]
    return [f"import {top}" for top in tops if top in MODULES or place not in ONLY_IN.get(top, {place})]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_forbidden_call(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize("place", sorted(set().union(*ONLY_IN.values())))
def test_an_exception_is_still_needed(place: str) -> None:
    assert findings((ROOT / place).read_text(encoding="utf-8"), "elsewhere")


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
        "compile(text, 'f', 'exec')",
        "archive.extractall(folder)",
        "zipfile.ZipFile(f).extract('a')",
        "import pickle",
        "from pickle import UnpicklingError",
        "import urllib.request",
        "def f():\n    import csv",
        "import subprocess",
        "importlib.import_module(name)",
    ],
)
def test_the_rule_sees(source: str) -> None:
    assert findings(source, "detector/somewhere.py")


@pytest.mark.parametrize(
    "source", ["model.eval()", "yaml.safe_load(f)", "re.compile(p)", "model.compile()", "import pickletools"]
)
def test_the_rule_lets_pass(source: str) -> None:
    assert findings(source, "detector/somewhere.py") == []
