"""A report for people and for programs."""

import dataclasses
from collections.abc import Iterator, Sequence

from detector.benchmark import race
from detector.benchmark.environment import Environment
from detector.benchmark.heads import RecipeResult, Report, WayResult

_TITLES = {
    "joint": "joint",
    "head": "head after head",
    "level": "level after level",
    "images": "some images of a level",
}
_RACE = {"train": "training step", "infer": "images to detections"}
_HEADINGS = ("gradients", "held", "", "peak", "", "s", "time")


def as_json(report: Report | race.Report) -> dict[str, object]:
    return dataclasses.asdict(report)


def table(report: Report) -> str:
    """One block for each recipe and type; memory in MiB with its reduction, time as a share of joint's."""
    where, what = report.environment, report.settings
    head = [
        _where(where),
        f"batch {what.batch_size} of {what.image_size} x {what.image_size}, {what.num_classes} classes, "
        f"{what.objects_per_image} objects an image, {what.rounds} rounds",
    ]
    return "\n\n".join(["\n".join(head), *(_block(result) for result in report.results)])


def race_table(report: race.Report) -> str:
    """One row for each way; how much faster it is than the first, and whether it says the same."""
    what = report.settings
    title = f"{_RACE[what.task]}, batch {what.batch_size} of {what.image_size} x {what.image_size}"
    lines = [(title, "s", "speed", "other answer", ""), *(_race_cells(row) for row in report.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rounds = f"median (least-most) of {what.rounds} rounds in turns, against {race.SHIPPED}"
    return "\n".join([_where(report.environment), rounds, "", *("  ".join(_aligned(line, widths)) for line in lines)])


def _race_cells(row: race.Row) -> tuple[str, ...]:
    speed = row.speedup
    return (
        row.name,
        f"{row.seconds.median:.3f}",
        f"{speed.median:.2f} ({speed.min:.2f}-{speed.max:.2f})",
        f"{row.difference:.1e}",
        "" if row.same else "DIFFERS",
    )


def _where(where: Environment) -> str:
    return (
        f"{where.device} ({where.cpu}, {where.threads} threads, load {where.load:.1f}), torch {where.torch_version}, "
        f"commit {where.commit or 'unknown'}"
    )


def _block(result: RecipeResult) -> str:
    rows = [(_TITLES[name], *_cells(way)) for name, way in result.ways.items()]
    lines = [(f"{result.recipe}, {result.dtype}", *_HEADINGS), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    meter = f"measuring the gradients at the junction takes {result.meter_share:.2%} of a joint step"
    return "\n".join([*("  ".join(_aligned(line, widths)) for line in lines), meter])


def _aligned(line: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for i, (cell, width) in enumerate(zip(line, widths, strict=True)):
        yield cell.rjust(width) if i else cell.ljust(width)


def _cells(way: WayResult) -> tuple[str, ...]:
    ratio = way.time_ratio
    return (
        f"{way.relative_gradient_difference:.1e}",
        f"{way.held_bytes / 2**20:.0f}",
        f"{-way.held_reduction:+.1%}",
        f"{way.peak_bytes / 2**20:.0f}",
        f"{-way.peak_reduction:+.1%}",
        f"{way.seconds.median:.2f}",
        f"{ratio.median:.3f} ({ratio.min:.3f}-{ratio.max:.3f})",
    )
