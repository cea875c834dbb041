"""Two models side by side, as one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.analysis.analyse import Analysis
from detector.analysis.bootstrap import Difference
from detector.analysis.worst import ImageTally
from detector.report import document, picture_sections
from detector.report.html import Html, table, tag

_PICTURES = 10  # images, each twice
_NAMES = ("AP", "AP50", "AP75")
Change = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    name: str
    analysis: Analysis
    paths: Mapping[int, Path]  # of images, by row of the truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An image with more or fewer errors than before."""

    image_row: int
    before: ImageTally
    after: ImageTally

    @property
    def change(self) -> int:
        return self.after.errors - self.before.errors


def render(
    a: Side,
    b: Side,
    differences: Sequence[Difference],
    settings: Sequence[Change],
    data: Sequence[Change],
    flips: Sequence[Flip],
) -> str:
    """Scores with the interval of their difference, settings, data, and the pictures that flipped."""
    both = [(one.analysis.scores.ap, one.analysis.scores.ap50, one.analysis.scores.ap75) for one in (a, b)]
    rows: list[list[Html | str]] = [
        [
            _NAMES[k],
            f"{both[0][k]:.3f}",
            f"{both[1][k]:.3f}",
            f"{one.value:+.3f}",
            f"{one.interval.low:+.3f} to {one.interval.high:+.3f}",
            f"{100 * one.share_better:.0f} %",
        ]
        for k, one in enumerate(differences)
    ]
    head = ["", "A", "B", "B - A", "95 % interval", "resamplings in which B is better"]
    return document.page(
        "Comparison",
        tag("p", f"A: {a.name}", tag("br"), f"B: {b.name}", tag("br"), f"scored on {a.analysis.truth.source}"),
        document.section("scores", "Scores", table(head, rows) if rows else _undefined(), _by_class(a, b)),
        document.section("settings", "Settings", _changes(settings)),
        document.section("data", "Data", _changes(data)),
        document.section(
            "images",
            "Images that flipped",
            picture_sections.legend("each model's thresholds of best F1"),
            _pictures(a, b, flips),
        ),
    )


def _undefined() -> Html:
    return document.paragraphs("Not defined: nothing is there to be found.")


def _by_class(a: Side, b: Side) -> Html | None:
    pairs = zip(a.analysis.scores.per_class, b.analysis.scores.per_class, strict=True)
    rows: list[list[Html | str]] = [
        [x.name, f"{x.ap:.3f}", f"{y.ap:.3f}", f"{y.ap - x.ap:+.3f}", str(x.num_objects)] for x, y in pairs if x.ap >= 0
    ]
    return document.folded("AP by class", table(["class", "A", "B", "B - A", "objects"], rows[:300])) if rows else None


def _changes(changes: Sequence[Change]) -> Html:
    rows: list[list[Html | str]] = [list(change) for change in changes]
    return table(["", "A", "B"], rows, numbers_from=3) if rows else document.paragraphs("The same.")


def _pictures(a: Side, b: Side, flips: Sequence[Flip]) -> Html:
    figures: list[Html] = []
    for flip in flips[:_PICTURES]:
        for letter, side, tally in (("A", a, flip.before), ("B", b, flip.after)):
            remark = f"{letter}: {tally.right} right, {tally.wrong} wrong, {tally.missed} missed"
            figures.append(picture_sections.judged(side.analysis, flip.image_row, side.paths, remark))
    return tag("div", *figures, class_="grid plots") if figures else document.paragraphs("None.")
