"""Ways of doing the same work side by side, in rounds that take turns: times, memory, and whether all find the same.

A way that must not see another's memory runs in a process of its own, which writes what it measured as one JSON object.
"""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from detector.benchmark.environment import Environment
from detector.benchmark.spread import Spread
from detector.errors import DetectorError

Made = TypeVar("Made")
_HEADINGS = ("", "s", "times as fast", "CPU s", "times as fast", "MiB", "share", "answer")
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
    is_equal: bool  # as nearly as the benchmark asks
    largest_difference: float  # from the reference, in the benchmark's own measure
    found: Mapping[str, Any]  # in the first round


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of a benchmark."""

    environment: Environment
    what: str
    settings: Mapping[str, object]
    reference: str
    ways: Mapping[str, WayResult]

    @property
    def title(self) -> str:
        """What was measured, how large and against whom."""
        numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.settings.items())
        return f"{self.what}: {numbers}; median (least-most), times as fast as {self.reference}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Equality:
    """What it means to find the same."""

    distance: Callable[[Mapping[str, Any], Mapping[str, Any]], float]
    """Of what two ways found; infinite where no number tells."""
    tolerances: Mapping[str, float]
    """Largest distance of each way from the reference; 0 for one that is not named."""


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
    device: torch.device | None = None,
    equality: Equality | None = None,
) -> Report:
    """Run every way once a round; each round begins with another way, so that none is always the first."""
    environment = Environment.here(device or torch.device("cpu"))
    equality = equality or Equality(distance=difference, tolerances={})
    runs: dict[str, list[Measured]] = {way: [] for way in ways}
    for i in range(rounds):
        shift = i % len(ways)
        for way in (*ways[shift:], *ways[:shift]):
            one = run(way)
            runs[way].append(one)
            say(f"round {i + 1} of {rounds}: {way}: {one.seconds:.3f} s")
    return Report(
        environment=environment,
        what=what,
        settings=settings,
        reference=reference,
        ways={way: _result(way, of_way, runs[reference], equality) for way, of_way in runs.items()},
    )


def _result(way: str, runs: Sequence[Measured], base: Sequence[Measured], equality: Equality) -> WayResult:
    peak, base_peak = _median_peak(runs), _median_peak(base)
    largest = max(equality.distance(run.found, base[0].found) for run in runs)
    return WayResult(
        seconds=Spread.of([run.seconds for run in runs]),
        peak_bytes=peak,
        speed_up=Spread.of([other.seconds / run.seconds for run, other in zip(runs, base, strict=True)]),
        cpu_seconds=Spread.of([run.cpu_seconds for run in runs]),
        cpu_speed_up=Spread.of([other.cpu_seconds / run.cpu_seconds for run, other in zip(runs, base, strict=True)]),
        memory_share=None if peak is None or not base_peak else peak / base_peak,
        is_equal=largest <= equality.tolerances.get(way, 0.0),
        largest_difference=largest,
        found=runs[0].found,
    )


def _median_peak(runs: Sequence[Measured]) -> int | None:
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return int(statistics.median(peaks)) if peaks else None


def difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> float:
    """The largest one between lists of numbers under the same key; infinite if other values differ."""
    largest = 0.0
    for key, value in wanted.items():
        if isinstance(value, list):
            pairs: list[tuple[float, float]] = list(zip(found[key], wanted[key], strict=True))
            largest = max([largest, *(abs(a - b) for a, b in pairs)])
        elif found[key] != value:
            return math.inf
    return largest


def as_json(report: Report) -> dict[str, Any]:
    tree = dataclasses.asdict(report)
    for way in tree["ways"].values():
        if math.isinf(way["largest_difference"]):  # of which JSON knows nothing
            way["largest_difference"] = None
    return tree


def of_json(tree: Mapping[str, Any]) -> Report:
    """The report that `as_json` was given, after a way through a file.

    Raises:
        KeyError, TypeError: it is another file, or an older one.
    """
    return Report(
        environment=Environment(**tree["environment"]),
        what=tree["what"],
        settings=tree["settings"],
        reference=tree["reference"],
        ways={name: _way_of_json(way) for name, way in tree["ways"].items()},
    )


def _way_of_json(tree: Mapping[str, Any]) -> WayResult:
    return WayResult(
        seconds=Spread(**tree["seconds"]),
        peak_bytes=tree["peak_bytes"],
        speed_up=Spread(**tree["speed_up"]),
        cpu_seconds=Spread(**tree["cpu_seconds"]),
        cpu_speed_up=Spread(**tree["cpu_speed_up"]),
        memory_share=tree["memory_share"],
        is_equal=tree["is_equal"],
        largest_difference=math.inf if tree["largest_difference"] is None else tree["largest_difference"],
        found=tree["found"],
    )


def table(report: Report) -> str:
    """A line for each way."""
    cells = [_HEADINGS, *((way, *_cells(result)) for way, result in report.ways.items())]
    used = [i for i in range(len(_HEADINGS)) if i == 0 or any(line[i] not in ("", _HEADINGS[i]) for line in cells)]
    lines = [[line[i] for i in used] for line in cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(used))]
    rows = ("  ".join(_aligned(line, widths)).rstrip() for line in lines)
    return "\n".join([report.environment.text(), report.title, "", *rows])


def _aligned(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for i, (cell, width) in enumerate(zip(line, widths, strict=True)):
        yield cell.rjust(width) if i else cell.ljust(width)


def _cells(result: WayResult) -> tuple[str, ...]:
    return (
        f"{result.seconds.median:.3f}",
        result.speed_up.text(),
        f"{result.cpu_seconds.median:.3f}",
        result.cpu_speed_up.text(),
        "" if result.peak_bytes is None else f"{result.peak_bytes / 2**20:.0f}",
        "" if result.memory_share is None else f"{result.memory_share:.3f}",
        f"{'same' if result.is_equal else 'DIFFERS'} ({result.largest_difference:.1e})",
    )
