"""Thousands of steps, with scorings and checkpoints among them, take no more memory and files than one thousand.

`make faults` takes 10,000; the number is in DETECTOR_SOAK_STEPS.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.faults.conftest import child, steps
from tests.integration.conftest import TINY

STEPS = int(os.environ.get("DETECTOR_SOAK_STEPS", "10000"))
SETTLED = 1000
GROWTH = 0.01
SECONDS_A_STEP = 0.5  # on a slow and busy machine


@dataclass(frozen=True, slots=True)
class Sample:
    step: int
    bytes_resident: int
    files_open: int

    @classmethod
    def read(cls, line: str) -> Self:
        return cls(*map(int, line.split()))


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_run_grows_neither_in_memory_nor_in_open_files(data: Path, tmp_path: Path) -> None:
    assert STEPS >= 2 * SETTLED, "DETECTOR_SOAK_STEPS must be 2000 or more"
    marker = tmp_path / "samples"
    code, errors = child(
        data,
        tmp_path / "run",
        *TINY,
        *steps(STEPS),
        *("--device", "cpu", "--workers", "1"),
        *("--set", "data.crops.share=0", "--set", "checkpoint.seconds=5"),
        *("--set", f"length.evaluations={STEPS // 250}"),
        fault=f"watch-from-step={SETTLED}",
        seconds=SECONDS_A_STEP * STEPS,
        marker=marker,
    )
    assert code == 0, errors
    samples = [Sample.read(line) for line in marker.read_text().splitlines()]
    # The highest of five: a sample may fall into a checkpoint, which holds a copy of the state for a moment.
    first, last = samples[:5], samples[-5:]
    before, after = (max(one.bytes_resident for one in group) for group in (first, last))
    said = f"{before >> 10} KB at step {first[0].step}, {after >> 10} KB at step {last[-1].step}"
    sys.stdout.write(f"{said} ({after / before - 1:+.2%}); files {first[0].files_open} and {last[-1].files_open}\n")
    assert after <= before * (1 + GROWTH), said
    assert max(one.files_open for one in last) <= max(one.files_open for one in first)
