"""The program of this checkout, run as its users run it, and what is noted beside a result."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = "data/blood-cells"


def detector(*words: str) -> dict[str, Any]:
    """What a command of this checkout answers."""
    done = subprocess.run(
        [sys.executable, "-m", "detector", *words, "--json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def seconds(run: Path) -> float:
    """That a training took, by its log."""
    return round(_most(run, "seconds"), 1)


def steps(run: Path) -> int:
    """That a training took, by its log."""
    return int(_most(run, "step"))


def _most(run: Path, name: str) -> float:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return max(float(json.loads(line)[name]) for line in lines)


def commit() -> str:
    """Of this checkout."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"
