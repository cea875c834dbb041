"""Ways of doing the same work side by side: each run in a process of its own, in rounds that take turns.

A child writes what it measured and what it found as one JSON object; ways that find something else are marked so.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from detector.benchmark.environment import Environment
from detector.benchmark.spread import Spread
from detector.errors import DetectorError

Made = TypeVar("Made")
_RESET_PEAK = "5"  # what Linux takes to forget a process's highest memory so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one way."""

    seconds: float
    cpu_seconds: float  # of all threads
    peak_bytes: int | None
    """By how much the process grew at its largest; None where the system does not say."""
    found: Mapping[str, Any]
    """What must be equal for all ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayResult:
    """The rounds of one way."""

    seconds: Spread
    peak_bytes: int | None  # median of the rounds
    speed_up: Spread  # how many times as fast as the reference of the same round
    cpu_seconds: Spread  # less disturbed by other work on the machine
    cpu_speed_up: Spread
    memory_share: float | None  # of the reference
    is_equal: bool
    largest_difference: float  # of any number found, from the reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of a benchmark."""

    environment: Environment
    what: str
    settings: Mapping[str, object]
    reference: str
    ways: Mapping[str, WayResult]


def measured(work: Callable[[], Made], describe: Callable[[Made], Mapping[str, Any]]) -> Measured:
    """Do the work, and only then describe what it made."""
    before = _forget_peak()
    start, cpu_start = time.perf_counter(), time.process_time()
    made = work()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = None if before is None else _status_bytes("VmHWM") - before
    return Measured(seconds=seconds, cpu_seconds=cpu_seconds, peak_bytes=peak, found=describe(made))


def _forget_peak() -> int | None:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        return _status_bytes("VmRSS")
    except OSError:
        return None


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def run_child(module: str, arguments: Sequence[str]) -> Measured:
    """Run `python -m module arguments`, which prints a `Measured` as JSON."""
    root = Path(__file__).parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DetectorError(f"{module} {' '.join(arguments)}: ended with code {done.returncode}: {last}")
    return Measured(**json.loads(done.stdout))


def print_measured(one: Measured) -> None:
    sys.stdout.write(json.dumps(dataclasses.asdict(one)) + "\n")


def compare(
    what: str,
    settings: Mapping[str, object],
    run: Callable[[str], Measured],
    *,
    ways: Sequence[str],
    reference: str,
    rounds: int,
    say: Callable[[str], None],
) -> Report:
    """Run every way once a round; each round begins with another way, so that none is always the first."""
    environment = Environment.here(torch.device("cpu"))
    runs: dict[str, list[Measured]] = {way: [] for way in ways}
    for i in range(rounds):
        shift = i % len(ways)
        for way in (*ways[shift:], *ways[:shift]):
            one = run(way)
            runs[way].append(one)
            say(f"round {i + 1} of {rounds}: {way}: {one.seconds:.2f} s")
    return Report(
        environment=environment,
        what=what,
        settings=settings,
        reference=reference,
        ways={way: _result(of_way, runs[reference]) for way, of_way in runs.items()},
    )


def _result(runs: Sequence[Measured], base: Sequence[Measured]) -> WayResult:
    peak, base_peak = _median_peak(runs), _median_peak(base)
    return WayResult(
        seconds=Spread.of([run.seconds for run in runs]),
        peak_bytes=peak,
        speed_up=Spread.of([other.seconds / run.seconds for run, other in zip(runs, base, strict=True)]),
        cpu_seconds=Spread.of([run.cpu_seconds for run in runs]),
        cpu_speed_up=Spread.of([other.cpu_seconds / run.cpu_seconds for run, other in zip(runs, base, strict=True)]),
        memory_share=None if peak is None or not base_peak else peak / base_peak,
        is_equal=all(run.found == base[0].found for run in runs),
        largest_difference=max(difference(run.found, base[0].found) for run in runs),
    )


def _median_peak(runs: Sequence[Measured]) -> int | None:
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return int(statistics.median(peaks)) if peaks else None


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    """The largest one between lists of numbers under the same key; other values count in `is_equal` alone."""
    largest = 0.0
    for key in (key for key, value in wanted.items() if isinstance(value, list)):
        pairs: list[tuple[float, float]] = list(zip(found[key], wanted[key], strict=True))
        largest = max([largest, *(abs(a - b) for a, b in pairs)])
    return largest


def as_json(report: Report) -> dict[str, object]:
    return dataclasses.asdict(report)


def table(report: Report) -> str:
    """A line for each way."""
    where = report.environment
    numbers = ", ".join(f"{key} {value}" for key, value in report.settings.items())
    lines = [
        f"{where.cpu}, load {where.load:.1f}, commit {where.commit or 'unknown'}",
        f"{report.what}: {numbers}",
        "",
        f"{'':<12}{'s':>8}  {'times as fast':>22}{'CPU s':>8}  {'times as fast':>22}{'MiB':>7}{'share':>7}  numbers",
    ]
    return "\n".join([*lines, *(_line(way, result) for way, result in report.ways.items())])


def _line(way: str, result: WayResult) -> str:
    mib = "-" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f}"
    share = "-" if result.memory_share is None else f"{result.memory_share:.3f}"
    same = "equal" if result.is_equal else f"DIFFERENT, by up to {result.largest_difference:.1e}"
    wall = f"{result.seconds.median:>8.2f}  {_range(result.speed_up):>22}"
    cpu = f"{result.cpu_seconds.median:>8.2f}  {_range(result.cpu_speed_up):>22}"
    return f"{way:<12}{wall}{cpu}{mib:>7}{share:>7}  {same}"


def _range(spread: Spread) -> str:
    return f"{spread.median:.1f} ({spread.min:.1f}-{spread.max:.1f})"
