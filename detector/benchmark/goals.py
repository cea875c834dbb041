"""What the project wants to reach, beside what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from detector.benchmark import counting
from detector.benchmark.contest import Report
from detector.benchmark.spread import Spread

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The reports of one run over everything; None was not run."""

    operations: counting.Report | None = None
    train: Report | None = None
    infer: Report | None = None
    load: Report | None = None
    evaluate: Report | None = None
    read: Report | None = None
    read_boxes: Report | None = None
    data: Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One line of the table."""

    what: str
    against: str
    goal: str
    measured: str


def goals(found: Measured, *, on_gpu: bool) -> list[Goal]:
    """Those that any machine can measure, then those of a GPU."""
    return [*_counted(found.operations), *_on_cpu(found, on_gpu=on_gpu), *_on_gpu(found, on_gpu=on_gpu)]


def _counted(report: counting.Report | None) -> list[Goal]:
    rows: tuple[tuple[str, str, str, str], ...] = (("", "", "", ""),) * 3
    if report is not None:
        theirs, ours = report.training["torchvision"], report.training["detector"]
        their_search, our_search = report.inference["torchvision"], report.inference["detector"]
        rows = (
            ("waits", str(theirs.waits), str(ours.waits), ""),
            ("operations", str(theirs.operations["forward"]), str(ours.operations["forward"]), ""),
            ("search", str(their_search.waits), str(our_search.waits), ""),
        )
    titles = (
        ("host waits in a training step, batch 16", "0"),
        ("operations of matching and losses in it", "<= 80"),
        ("host waits from 16 images to their detections", "1"),
    )
    return [
        Goal(
            what=what,
            against=f"torchvision {row[1]}" if row[1] else "torchvision",
            goal=goal,
            measured=row[2] or NOT_MEASURED,
        )
        for (what, goal), row in zip(titles, rows, strict=True)
    ]


def _on_cpu(found: Measured, *, on_gpu: bool) -> list[Goal]:
    train, infer = (None, None) if on_gpu else (found.train, found.infer)
    shipped = "torchvision as shipped"
    read = None if found.read is None else found.read.ways.get("detector")
    memory = NOT_MEASURED if read is None or read.memory_share is None else f"{read.memory_share:.2f}x"
    rows = [
        ("training step, CPU", shipped, ">= 2.2x", _speed(train, "detector bfloat16", "detector float32")),
        ("one image to detections, CPU", shipped, ">= 2.5x", _speed(infer, "detector bfloat16", "detector float32")),
        ("the same, compiled", shipped, ">= 3x", _speed(infer, "detector bfloat16 compiled")),
        ("loading on one core", "Pillow and torchvision v2", ">= 3x", _speed(found.load, "detector")),
        ("COCO scoring, files included", "pycocotools", ">= 30x", _speed(found.evaluate, "detector")),
        ("opening 1 M annotations", "pycocotools", ">= 5x", _speed(found.read, "detector")),
        ("memory of that", "pycocotools", "<= 0.2x", memory),
        ("opening 1 M of boxes alone", "pycocotools", ">= 5x", _speed(found.read_boxes, "detector")),
        ("training from files", "the same batches in memory", ">= 0.95x", _speed(found.data, "files")),
    ]
    return [Goal(what=what, against=against, goal=goal, measured=value) for what, against, goal, value in rows]


def _on_gpu(found: Measured, *, on_gpu: bool) -> list[Goal]:
    train = found.train if on_gpu else None
    peak = NOT_MEASURED
    if train is not None and (share := train.ways["detector bfloat16"].memory_share) is not None:
        peak = f"{share:.2f}x"
    shipped, tuned = "torchvision as shipped", "torchvision bfloat16 channels-last"
    rows = [
        ("training step, batch 16, GPU", shipped, ">= 4x", _speed(train, "detector bfloat16")),
        ("the same", tuned, ">= 1.7x", _over(train, "detector bfloat16", tuned)),
        (
            "the same, both compiled",
            "torchvision compiled",
            ">= 1.3x",
            _over(train, "detector bfloat16 compiled", "torchvision bfloat16 compiled"),
        ),
        ("share of the GPU's bfloat16 peak in it", "MLPerf's record, 34 %", ">= 22 %", NOT_MEASURED),
        ("training step, batch 2, GPU", tuned, ">= 2.5x", NOT_MEASURED),
        ("peak memory, batch 16, GPU", shipped, "<= 0.4x", peak),
        ("the same", tuned, "<= 0.65x", NOT_MEASURED),
    ]
    return [Goal(what=what, against=against, goal=goal, measured=value) for what, against, goal, value in rows]


def _speed(report: Report | None, *names: str) -> str:
    """How many times as fast as the reference the fastest of these is."""
    if report is None:
        return NOT_MEASURED
    spreads = [report.ways[name].speed_up for name in names if name in report.ways]
    return _best(spreads)


def _best(spreads: Sequence[Spread]) -> str:
    if not spreads:
        return NOT_MEASURED
    best = max(spreads, key=lambda spread: spread.median)
    return f"{best.median:.2f}x ({best.min:.2f}-{best.max:.2f})"


def _over(report: Report | None, ours: str, theirs: str) -> str:
    """How many times as fast as another way, by the medians."""
    if report is None or ours not in report.ways or theirs not in report.ways:
        return NOT_MEASURED
    return f"{report.ways[theirs].seconds.median / report.ways[ours].seconds.median:.2f}x"


def table(rows: Sequence[Goal]) -> str:
    cells = [("", "against", "goal", "measured"), *((row.what, row.against, row.goal, row.measured) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
