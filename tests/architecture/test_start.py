"""What happens before any work is asked for: nothing slow, no network, no other process, nothing written."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from detector.model import model_file
from tests.unit.train import make

ROOT = Path(__file__).parents[2]
HELP_SECONDS = 0.5

# Raises inside the import that does it, so that the traceback names the culprit.
WATCH = """
import os, sys

FORBIDDEN = (
    "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
    "subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn",
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def refuse(event, args):
    if event in FORBIDDEN or (event == "open" and args[2] & WRITING and args[0] != os.devnull):
        raise AssertionError(f"{event} {args}")

sys.dont_write_bytecode = True
sys.addaudithook(refuse)
"""


def run_watched(code: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; `before` is what may do as it likes."""
    argv = [sys.executable, "-c", before + WATCH + code, *arguments]
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


def test_no_import_opens_a_socket_starts_a_process_or_writes() -> None:
    done = run_watched(
        "import importlib, pkgutil, detector\n"
        "names = [m.name for m in pkgutil.walk_packages(detector.__path__, 'detector.') if '__main__' not in m.name]\n"
        "assert 'detector.run' in names\n"
        "for name in names: importlib.import_module(name)\n",
        # They ask ldconfig for CUDA's libraries and make a folder for compiled code, which is not ours to change.
        before="import torch, torchvision\n",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


LOAD = """
from detector import Detector
model = Detector.load(sys.argv[1], device="cpu")
assert model.names == ("a", "b", "c")
"""
PREDICT = """
import numpy as np
model.predict(np.zeros((60, 90, 3), np.uint8), score=0.0)
"""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model_file.save(path, make.trained(make.config()))
    return path


@pytest.mark.parametrize("code", ["", PREDICT], ids=["load", "load and predict"])
def test_a_model_is_used_without_a_socket_a_process_or_a_file(model_path: Path, code: str) -> None:
    libraries = "import torch, torchvision, cv2, albumentations\n"
    done = run_watched(LOAD + code, str(model_path), before=libraries)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in model_path.parent.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; os.fork()",
        "import socket; socket.socket()",
        "open('/tmp/detector-start-canary', 'w')",
        "open('/tmp/detector-start-canary', 'ab')",
        "import os; os.open('/tmp/detector-start-canary', os.O_CREAT)",
        "import os; os.mkdir('/tmp/detector-start-canary')",
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
