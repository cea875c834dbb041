"""A report for people and for programs."""

import dataclasses
from collections.abc import Iterator, Sequence

from detector.benchmark.heads import RecipeResult, Report, WayResult

_TITLES = {
    "joint": "joint",
    "head": "head after head",
    "level": "level after level",
    "images": "some images of a level",
}
_HEADINGS = ("gradients", "held", "", "peak", "", "s", "time")


def as_json(report: Report) -> dict[str, object]:
    return dataclasses.asdict(report)


def table(report: Report) -> str:
    """One block for each recipe and type; memory in MiB with its reduction, time as a share of joint's."""
    where, what = report.environment, report.settings
    head = [
        where.text(),
        f"batch {what.batch_size} of {what.image_size} x {what.image_size}, {what.num_classes} classes, "
        f"{what.objects_per_image} objects an image, {what.rounds} rounds",
    ]
    return "\n\n".join(["\n".join(head), *(_block(result) for result in report.results)])


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
