"""The plots of a report, each as an SVG of its own."""

import io
import warnings
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Final

import numpy as np

from detector.analysis.analyse import Analysis
from detector.fitting.power_law import Forecast, Point, PowerLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito 2008, as in `predict.colours`; light ones last, which a dark page shows dim.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK: Final = "#333333"
_FAINT: Final = "#8a8a8a"
MOST_LINES: Final = 12  # classes that one plot can hold
MOST_CELLS: Final = 25  # classes of a confusion matrix that can be read
_LONGEST_NAME: Final = 20
_POINTS: Final = 200  # of a curve


def svg(draw: "Callable[[Axes], None]", *, width: float = 4.4, height: float = 3.0) -> bytes:
    """One panel, drawn by `draw`; equal input gives equal bytes."""
    # Half a second, which nobody should wait for who wants no picture.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "detector", "font.size": 9}), warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        panel = figure.add_subplot()
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(_FAINT)
        panel.tick_params(which="both", color=_FAINT, labelcolor=_INK)
        draw(panel)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def errors(analysis: Analysis) -> bytes:
    """What each kind of error costs."""
    kinds = [f"{one.kind} ({one.count})" for one in analysis.errors][::-1]
    costs = [max(0.0, 100 * one.ap50_lost) for one in analysis.errors][::-1]

    def draw(panel: "Axes") -> None:
        bars = panel.barh(range(len(kinds)), costs, color=_COLOURS[0])
        panel.set_yticks(range(len(kinds)), kinds)
        panel.bar_label(bars, [f" {cost:.1f}" for cost in costs], color=_INK)
        panel.set_xlabel("AP50 points that it costs", color=_INK)
        panel.margins(x=0.15)

    return svg(draw, height=2.4)


def class_sizes(names: Sequence[str], counts: Sequence[int]) -> bytes:
    """Objects of the most frequent classes."""
    order: list[int] = np.argsort(-np.array(counts), kind="stable")[:MOST_LINES][::-1].tolist()

    def draw(panel: "Axes") -> None:
        bars = panel.barh(range(len(order)), [counts[k] for k in order], color=_COLOURS[0])
        panel.set_yticks(range(len(order)), [_plain(names[k]) for k in order], parse_math=False)
        panel.bar_label(bars, [f" {counts[k]}" for k in order], color=_INK)
        panel.set_xlabel("objects", color=_INK)
        panel.margins(x=0.15)

    return svg(draw, height=0.9 + 0.28 * len(order))


def box_sizes(sides: Sequence[float]) -> bytes:
    """How large objects are."""

    def draw(panel: "Axes") -> None:
        low, high = max(1.0, min(sides)), max(2.0, *sides)
        panel.hist(sides, bins=np.geomspace(low, high * 1.001, 30).tolist(), color=_COLOURS[0])
        panel.set_xscale("log")
        panel.set_xticks([side for side in (1, 4, 16, 32, 96, 256, 1024, 4096) if low <= side <= high])
        panel.minorticks_off()
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_xlabel("square root of width times height, pixels", color=_INK)
        panel.set_ylabel("objects", color=_INK)
        for side in (32, 96):
            panel.axvline(side, color=_FAINT, linewidth=0.8, linestyle="--")

    return svg(draw)


def precision_recall(analysis: Analysis) -> bytes:
    """Of each class at IoU 0.5."""
    recalls = np.linspace(0, 1, 101)
    curves = analysis.curves.precision[0, :, :, 0, 2]

    def draw(panel: "Axes") -> None:
        for row, colour in zip(_most_frequent(analysis), cycle(_COLOURS)):
            panel.plot(recalls, curves[:, row], color=colour, linewidth=1.4, label=_label(analysis, row))
        _unit_axes(panel, "recall", "precision at IoU 0.5")

    return svg(draw)


def f1_by_threshold(analysis: Analysis) -> bytes:
    """What a threshold on the score gives, class by class."""

    def draw(panel: "Axes") -> None:
        for row, colour in zip(_most_frequent(analysis), cycle(_COLOURS)):
            curve = analysis.threshold_curves[row]
            if curve is None:
                continue
            part = np.unique(np.linspace(0, len(curve.thresholds) - 1, _POINTS).astype(np.int64))
            panel.plot(curve.thresholds[part], curve.f1[part], color=colour, linewidth=1.4, label=_label(analysis, row))
            point = analysis.points[row]
            panel.plot(point.threshold, point.f1, marker="o", markersize=4, color=colour)
        _unit_axes(panel, "least score", "F1 at IoU 0.5")

    return svg(draw)


def calibration(analysis: Analysis) -> bytes:
    """Score against what came true."""
    bins = analysis.calibration.bins

    def draw(panel: "Axes") -> None:
        panel.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.8, linestyle="--")
        most = max([one.count for one in bins], default=1)
        for one in bins:
            size = 3 + 9 * (one.count / most) ** 0.5
            panel.plot(one.mean_score, one.precision, marker="o", markersize=size, color=_COLOURS[0], alpha=0.8)
        panel.plot([one.mean_score for one in bins], [one.precision for one in bins], color=_COLOURS[0], linewidth=1)
        _unit_axes(panel, "mean score", "share that is right")

    return svg(draw)


def confusion(analysis: Analysis) -> bytes:
    """The matrix, coloured by the share of each row."""
    made = analysis.confusion
    names = [*(_plain(name) for name in analysis.truth.names), "background"]
    share = made / np.maximum(made.sum(axis=1, keepdims=True), 1)

    def draw(panel: "Axes") -> None:
        panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
        panel.set_xticks(range(len(names)), names, rotation=40, ha="right", parse_math=False)
        panel.set_yticks(range(len(names)), names, parse_math=False)
        panel.set_xlabel("found as", color=_INK)
        panel.set_ylabel("is", color=_INK)
        for row, column in np.argwhere(made > 0).tolist():
            ink = "white" if share[row, column] > 0.5 else _INK
            panel.text(column, row, str(made[row, column]), ha="center", va="center", color=ink, fontsize=8)

    side = 2.6 + 0.32 * len(names)
    return svg(draw, width=side + 0.8, height=side)


def localization(analysis: Analysis) -> bytes:
    """Signed errors of every group: the medians as dots, with their 95 % intervals."""
    groups = [one for one in analysis.localization if one.speaks][:MOST_LINES][::-1]
    parts = (("wider", -0.27), ("taller", -0.09), ("further right", 0.09), ("further down", 0.27))

    of_groups = [(one.wide, one.tall, one.right, one.down) for one in groups]

    def draw(panel: "Axes") -> None:
        panel.axvline(0, color=_FAINT, linewidth=0.8)
        for k, ((name, shift), colour) in enumerate(zip(parts, _COLOURS, strict=False)):
            biases = [errors[k] for errors in of_groups]
            heights = [row - shift for row in range(len(groups))]
            panel.errorbar(
                [100 * one.relative for one in biases], heights, xerr=[196 * one.standard_error for one in biases],
                fmt="o", markersize=4, linewidth=1, color=colour, label=name,
            )  # fmt: skip
        panel.set_yticks(range(len(groups)), [_plain(one.group) for one in groups], parse_math=False)
        panel.set_xlabel("median error, percent of the object's side, and its 95 % interval", color=_INK)
        panel.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(parts))

    return svg(draw, width=5.0, height=1.2 + 0.45 * max(1, len(groups)))


def validation(steps: Sequence[int], ap: Sequence[float], ap50: Sequence[float]) -> bytes:
    """The scores of a run while it trained."""

    def draw(panel: "Axes") -> None:
        panel.plot(steps, ap50, color=_COLOURS[1], marker="o", markersize=3, label="AP50")
        panel.plot(steps, ap, color=_COLOURS[0], marker="o", markersize=3, label="AP")
        panel.set_xlabel("step", color=_INK)
        panel.set_ylim(bottom=0)
        panel.legend(frameon=False)

    return svg(draw)


def learning_curve(points: Sequence[Point], law: PowerLaw, ahead: Forecast) -> bytes:
    """Scores by number of images, and the way they are expected to go on."""
    sizes = [point.num_images for point in points]
    way = np.geomspace(sizes[0], ahead.num_images, _POINTS)

    def draw(panel: "Axes") -> None:
        known = way <= sizes[-1]
        scores = np.array([law.score(n) for n in way.tolist()])
        panel.plot(way[known], scores[known], color=_COLOURS[0], linewidth=1)
        panel.plot(way[~known], scores[~known], color=_COLOURS[0], linewidth=1, linestyle="--")
        for one, colour, label in (
            *((point, _COLOURS[0], "measured" if k == 0 else None) for k, point in enumerate(points)),
            (ahead, _COLOURS[1], "forecast"),
        ):
            ends = [[max(0.0, one.score - one.low)], [max(0.0, one.high - one.score)]]
            panel.errorbar([one.num_images], [one.score], yerr=ends, fmt="o", markersize=4, color=colour, label=label)
        panel.set_xscale("log")
        panel.set_xticks([*sizes, ahead.num_images], [f"{n:,}" for n in (*sizes, ahead.num_images)])
        panel.minorticks_off()
        panel.set_xlabel("training images", color=_INK)
        panel.set_ylabel("AP on the validation split, 95 % interval", color=_INK)
        panel.legend(frameon=False, loc="lower right")

    return svg(draw)


def _most_frequent(analysis: Analysis) -> list[int]:
    counts = analysis.matches.num_objects.sum(axis=0)
    order = np.argsort(-counts, kind="stable").tolist()
    return [row for row in order if counts[row]][:MOST_LINES]


def _label(analysis: Analysis, row: int) -> str:
    # matplotlib reads a dollar as the begin of a formula, and leaves out a name that begins with an underscore.
    return " " + _plain(analysis.truth.names[row]).replace("$", r"\$")


def _unit_axes(panel: "Axes", across: str, up: str) -> None:
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1.02)
    panel.set_xlabel(across, color=_INK)
    panel.set_ylabel(up, color=_INK)
    if panel.get_legend_handles_labels()[1]:
        panel.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _plain(name: str) -> str:
    """A name as one line that can be drawn."""
    line = " ".join(name.encode("utf-8", "replace").decode().split())
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"
