"""The loss balance of a run as a picture: who steers the trunk, how each head learns, whether the heads agree."""

import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from detector.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, as in `predict.colours`; yellow is too pale for a line on white.
_HEAD_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")
_PAIR_COLOURS: Final = ("#404040", "#cc79a7", "#56b4e9", "#009e73", "#d55e00", "#0072b2")
_INK: Final = "#333333"
_FAINT: Final = "#8a8a8a"
_LINE: Final = 0.026  # height of a label, as a part of the figure's
_MINUS: Final = "\N{MINUS SIGN}"
_LONGEST_NAME: Final = 22
_LETTERS_ACROSS: Final = 85  # that fit side by side over a panel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One record of training; what was not measured or is not finite is left out."""

    step: int
    stage: str
    losses: dict[str, float]  # of each head
    shares: dict[str, float]  # of the gradient at the trunk, by head; they sum to 1
    cosines: dict[str, float]  # of each pair of heads


@dataclass(frozen=True, slots=True, kw_only=True)
class _Label:
    """Of a line's end."""

    at: float  # on the panel's vertical axis
    name: str
    value: str
    colour: str


def draw(metrics: Path, out: Path) -> bool:
    """Draw `metrics.jsonl` of a run folder as a PNG; says whether there was a gradient share to draw.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    picture = png(metrics)
    if picture is None:
        return False
    with written_whole(out) as temporary:
        temporary.write_bytes(picture)
    return True


def png(metrics: Path) -> bytes | None:
    """The picture itself; None where there is no gradient share to draw."""
    rows = _read(metrics)
    if not any(row.shares for row in rows):
        return None
    # Half a second, which nobody should wait for who wants no picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    _compose(figure, rows)
    written = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks shows as boxes; that is no reason to trouble whoever trains.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(written, format="png")
    return written.getvalue()


def _read(metrics: Path) -> list[_Row]:
    """Training records in order of step; of what a resumed run did twice, the later."""
    rows: list[_Row] = []
    for row in _parsed(metrics.read_text(encoding="utf-8", errors="replace").splitlines()):
        while rows and rows[-1].step >= row.step:
            rows.pop()
        rows.append(row)
    return rows


def _parsed(lines: Iterable[str]) -> Iterator[_Row]:
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # Half a line, where a run was killed; a resumed run writes on behind it.
            continue
        if isinstance(record, dict) and cast("dict[str, Any]", record).get("kind") == "train":
            yield _row(cast("dict[str, Any]", record))


def _row(record: dict[str, Any]) -> _Row:
    branches: list[dict[str, Any]] = record.get("branches") or []
    pairs: list[dict[str, Any]] = record.get("cosines") or []
    shares = _finite((branch["name"], branch.get("share")) for branch in branches)
    return _Row(
        step=record["step"],
        stage=record.get("stage") or "",
        losses=_finite((branch["name"], branch.get("loss")) for branch in branches),
        # A stack needs all of its layers.
        shares=shares if len(shares) == len(branches) else {},
        cosines=_finite((f"{pair['a']} · {pair['b']}", pair["cosine"]) for pair in pairs),
    )


def _finite(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    return {name: value for name, value in pairs if value is not None and math.isfinite(value)}


def _compose(figure: "Figure", rows: Sequence[_Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    grid = figure.add_gridspec(
        3, 1, height_ratios=(3, 3, 2), left=0.07, right=0.75, top=0.915, bottom=0.07, hspace=0.24
    )
    top = figure.add_subplot(grid[0])
    middle, bottom = (figure.add_subplot(grid[place], sharex=top) for place in (1, 2))
    top.set_xlim(rows[0].step - 0.5, rows[-1].step + 0.5)
    top.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    top.xaxis.set_major_formatter("{x:,.0f}")
    for panel in (top, middle):
        panel.tick_params(labelbottom=False)
    for panel in (top, middle, bottom):
        _tidy(panel)

    heads = list(dict.fromkeys(name for row in rows for name in row.losses | row.shares))
    colours = dict(zip(heads, cycle(_HEAD_COLOURS)))
    _draw_shares(top, rows, colours)
    _draw_losses(middle, rows, colours)
    _draw_cosines(bottom, rows)
    bottom.set_xlabel("step", color=_INK)

    stages = _stages(rows)
    if len(stages) > 1:
        for panel in (top, middle, bottom):
            for step, _ in stages[1:]:
                panel.axvline(step, color=_INK, linewidth=0.8)
        _name_stages(top, stages, end=rows[-1].step)


def _stages(rows: Sequence[_Row]) -> list[tuple[float, str]]:
    """Name of each stage and where it begins: half-way between the records, for neither knows better."""
    changes = [(now.step + before.step) / 2 for before, now in pairwise(rows) if now.stage != before.stage]
    return list(zip([rows[0].step, *changes], [stage for stage, _ in groupby(rows, key=_stage)], strict=True))


def _tidy(panel: "Axes") -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(_FAINT)
    panel.tick_params(which="both", color=_FAINT, labelcolor=_INK, labelsize=9)


def _title(panel: "Axes", text: str, remark: str, *, lift: float = 8) -> None:
    for at, words, weight, colour in (("left", text, "bold", _INK), ("right", remark, "normal", _FAINT)):
        panel.annotate(
            words, (0 if at == "left" else 1, 1), (0, lift), xycoords="axes fraction", textcoords="offset points",
            ha=at, fontsize=11 if at == "left" else 9, fontweight=weight, color=colour,
        )  # fmt: skip


def _name_stages(panel: "Axes", stages: Sequence[tuple[float, str]], *, end: int) -> None:
    steps = [step for step, _ in stages]
    for (start, stage), stop in zip(stages, [*steps[1:], end], strict=True):
        room = round((stop - start) / max(end - steps[0], 1) * _LETTERS_ACROSS) - 1
        panel.annotate(
            _plain(stage, room), (start, 1), (2, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
            fontsize=9, color=_INK, parse_math=False,
        )  # fmt: skip


def _draw_shares(panel: "Axes", rows: Sequence[_Row], colours: dict[str, str]) -> None:
    _title(panel, "Share of the gradient at the trunk", "pale: warning zone, a head with less than 10 %", lift=20)
    panel.set_ylim(0, 100)
    panel.set_yticks([0, 10, 50, 90, 100], ["0 %", "10 %", "50 %", "90 %", "100 %"])
    for _, group in groupby(rows, key=_stage):
        measured = [row for row in group if row.shares]
        if len(measured) == 1:  # as wide as the step that it stands for
            steps = [measured[0].step - 0.5, measured[0].step + 0.5]
            measured *= 2
        else:
            steps = [row.step for row in measured]
        floor = [0.0] * len(steps)
        for name, colour in colours.items():
            ceiling = [low + 100 * row.shares.get(name, 0) for low, row in zip(floor, measured, strict=True)]
            panel.fill_between(steps, floor, ceiling, color=colour, linewidth=0)
            floor = ceiling
    for low, edge in ((0, 10), (90, 90)):
        panel.axhspan(low, low + 10, color="white", alpha=0.45, linewidth=0)
        panel.axhline(edge, color="white", linewidth=1.2, linestyle=(0, (4, 3)))

    last = next(row for row in reversed(rows) if row.shares)
    labels: list[_Label] = []
    floor_at_end = 0.0
    for name, share in ((name, 100 * last.shares[name]) for name in colours if name in last.shares):
        labels.append(_Label(at=floor_at_end + share / 2, name=name, value=f"{share:.0f} %", colour=colours[name]))
        floor_at_end += share
    _label_ends(panel, labels)


def _draw_losses(panel: "Axes", rows: Sequence[_Row], colours: dict[str, str]) -> None:
    from matplotlib.ticker import NullLocator

    _title(panel, "Loss of each head", "logarithmic")
    values = [loss for row in rows for loss in row.losses.values() if loss > 0]
    if not values:
        _say_nothing(panel)
        return
    # A room of at least one decade has two round numbers for ticks.
    middle, reach = math.sqrt(min(values) * max(values)), max(max(values) / min(values) * 1.3, 10) ** 0.5
    panel.set_yscale("log", subs=[])
    panel.set_ylim(middle / reach, middle * reach)
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_locator(NullLocator())
    panel.locator_params(axis="y", subs=(1, 2, 5) if reach < 10 else (1,))
    labels: list[_Label] = []
    for name, colour in colours.items():
        # A loss of zero has no place on this axis.
        end = _plot(panel, rows, lambda row, name=name: row.losses.get(name) or None, colour)
        if end is not None:
            labels.append(_Label(at=end, name=name, value=f"{end:.3g}", colour=colour))
    _label_ends(panel, labels)


def _draw_cosines(panel: "Axes", rows: Sequence[_Row]) -> None:
    _title(panel, "Cosine between the heads", "above 0 they pull the same way, below 0 against each other")
    panel.set_ylim(-1, 1)
    panel.set_yticks([-1, 0, 1], [f"{_MINUS}1", "0", "1"])
    pairs = list(dict.fromkeys(pair for row in rows for pair in row.cosines))
    if not pairs:
        _say_nothing(panel)
        return
    panel.axhline(0, color=_FAINT, linewidth=0.8)
    labels: list[_Label] = []
    for pair, colour in zip(pairs, cycle(_PAIR_COLOURS)):
        end = _plot(panel, rows, lambda row, pair=pair: row.cosines.get(pair), colour)
        if end is not None:
            labels.append(_Label(at=end, name=pair, value=f"{end:+.2f}".replace("-", _MINUS), colour=colour))
    _label_ends(panel, labels)


def _plot(panel: "Axes", rows: Sequence[_Row], pick: Callable[[_Row], float | None], colour: str) -> float | None:
    """One line, with a break where a stage begins; its last value."""
    end: float | None = None
    for _, group in groupby(rows, key=_stage):
        points = [(row.step, value) for row in group if (value := pick(row)) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            panel.plot(steps, values, color=colour, linewidth=1.4, marker="o" if len(points) == 1 else "", markersize=3)
            end = values[-1]
    return end


def _label_ends(panel: "Axes", labels: Sequence["_Label"]) -> None:
    """Name the lines at the right of a panel, each as near to its end as the others let it."""
    to_height = panel.transData + panel.transAxes.inverted()
    x = panel.get_xlim()[1]
    ordered = sorted(labels, key=lambda label: label.at)
    ends = [float(to_height.transform((x, label.at))[1]) for label in ordered]
    heights = _spread(ends, gap=_LINE / panel.get_position().height)
    for height, label in zip(heights, ordered, strict=True):
        panel.plot(1.02, height, marker="s", markersize=6, color=label.colour, transform=panel.transAxes, clip_on=False)
        panel.text(
            1.035, height, f"{_plain(label.name, _LONGEST_NAME)}  {label.value}", transform=panel.transAxes,
            va="center", fontsize=9, color=_INK, parse_math=False,
        )  # fmt: skip


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights within 0 and 1 moved apart to where labels do not touch, up and down alike."""
    gap = min(gap, 1 / max(len(heights) - 1, 1))
    raised = _raised(heights, gap)
    lowered = [1 - height for height in reversed(_raised([1 - height for height in reversed(heights)], gap))]
    return [(high + low) / 2 for high, low in zip(raised, lowered, strict=True)]


def _raised(heights: Sequence[float], gap: float) -> list[float]:
    moved = list(accumulate(heights, lambda below, height: max(height, below + gap)))
    ceilings = [1 - gap * (len(moved) - 1 - place) for place in range(len(moved))]
    return [min(height, ceiling) for height, ceiling in zip(moved, ceilings, strict=True)]


def _say_nothing(panel: "Axes") -> None:
    panel.set_yticks([])
    panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", va="center", color=_FAINT)


def _plain(name: str, limit: int) -> str:
    """A name as one line that can be drawn."""
    line = " ".join(name.encode("utf-8", "replace").decode().split())
    return line if len(line) <= limit else f"{line[: max(limit - 1, 0)]}…"


def _stage(row: _Row) -> str:
    return row.stage
