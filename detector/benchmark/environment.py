"""Where a measurement was made."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a number depends on besides the program."""

    device: str
    cpu: str
    cores: int | None
    threads: int
    load: float
    """Of the whole machine over the last minute, before the measurement; beyond a few tenths, others were at work."""
    torch_version: str
    commit: str | None
    """Of this checkout, `-dirty` with changes; None for an installed package."""

    @classmethod
    def here(cls, device: torch.device) -> Self:
        return cls(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            cpu=_cpu(),
            cores=os.cpu_count(),
            threads=torch.get_num_threads(),
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
            torch_version=torch.__version__,
            commit=_commit(),
        )

    def text(self) -> str:
        """One line for people."""
        return (
            f"{self.device} ({self.cpu}, {self.threads} threads, load {self.load:.1f}), torch {self.torch_version}, "
            f"commit {self.commit or 'unknown'}"
        )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    package = Path(__file__).parents[1]
    try:
        commit = _git("rev-parse", "--short=12", "HEAD", cwd=package)
        # The program alone counts: a page of measurements that is being written does not make it another one.
        is_changed = bool(_git("status", "--porcelain", "--", ".", cwd=package))
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if is_changed else commit


def _git(*words: str, cwd: Path) -> str:
    return subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()
