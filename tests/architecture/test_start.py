"""What happens before any work is asked for: nothing slow, no network, no other process."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELP_SECONDS = 0.5

# Raises inside the import that does it, so that the traceback names the culprit.
WATCH = """
import sys

FORBIDDEN = (
    "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
    "subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn",
)

def refuse(event, args):
    if event in FORBIDDEN:
        raise AssertionError(f"{event} {args}")

sys.addaudithook(refuse)
"""


def run_watched(code: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; `before` is what may do as it likes."""
    argv = [sys.executable, "-c", before + WATCH + code]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import detector",
        "from detector import cli; cli.main(['--help'])",
        "from detector import cli\ntry: cli.main(['train', '--help'])\nexcept SystemExit: pass",
        "from detector import cli; cli.main(['train'])",
        "from detector import cli; cli.main(['train', 'd', '--set', 'optim.lrr=1'])",
    ],
    ids=["import", "help", "train help", "usage error", "wrong setting"],
)
def test_no_torch_before_work(code: str) -> None:
    done = run_watched(code + "\nheavy = {'torch', 'torchvision', 'cv2', 'albumentations'} & set(sys.modules)\n"
                       "assert not heavy, heavy\nassert 'detector' in sys.modules")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_no_import_opens_a_socket_or_starts_a_process() -> None:
    done = run_watched(
        "import importlib, pkgutil, detector\n"
        "names = [m.name for m in pkgutil.walk_packages(detector.__path__, 'detector.') if '__main__' not in m.name]\n"
        "assert 'detector.run' in names\n"
        "for name in names: importlib.import_module(name)\n",
        before="import torch\n",  # asks ldconfig for CUDA's libraries, which is not ours to change
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; os.fork()",
    ],
)
def test_the_watch_sees(code: str) -> None:
    done = run_watched(code)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


def cpu_seconds(*argv: str) -> float:
    """User and system time of a child, which other work on the machine disturbs less than the wall clock."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *argv], cwd=ROOT, env=dict(os.environ), stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("argv", [("--help",), ("train", "--help")], ids=" ".join)
def test_help_is_immediate(argv: tuple[str, ...]) -> None:
    assert min(cpu_seconds("-m", "detector", *argv) for _ in range(3)) < HELP_SECONDS


@pytest.mark.parametrize("tool", ["train", "eval", "predict", "report", "compare", "benchmark"])
def test_a_tool_is_the_command(tool: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    texts = [
        subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        for argv in (
            [sys.executable, f"tools/{tool}.py", "--help"],
            [sys.executable, "-m", "detector", tool, "--help"],
        )
    ]
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"usage: detector {tool}")
