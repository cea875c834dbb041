"""The parts of a report about scores and errors."""

from collections.abc import Sequence

import numpy as np

from detector.analysis import localization as localizations
from detector.analysis.analyse import Analysis
from detector.evaluate import text
from detector.evaluate.coco import ClassScore
from detector.report import document, plots
from detector.report.html import Html, data_uri, table, tag

_MOST_ROWS = 300
_SIZES = ("AP small", "AP medium", "AP large")


def share(value: float) -> str:
    return f"{value:.3f}" if value >= 0 else "-"  # NaN and -1 alike


def headline(analysis: Analysis) -> Html:
    scores = analysis.scores
    names = (("AP", scores.ap), ("AP50", scores.ap50), ("AP75", scores.ap75))
    ranges = [f"{one.low:.3f} to {one.high:.3f}" for one in analysis.intervals] or [""] * 3
    entries = [(name, share(value), remark) for (name, value), remark in zip(names, ranges, strict=True)]
    worst_kind = max(analysis.errors, key=lambda one: one.ap50_lost)
    said = [
        f"The costliest kind of error is {worst_kind.kind}: without it AP50 would be "
        f"{100 * worst_kind.ap50_lost:.1f} points higher."
    ]
    said[:0] = [sentence] if (sentence := weakest(analysis)) else []
    costly = [one for one in localizations.biased_groups(analysis.localization) if one.ap_gain > 0.005]
    said += [f"{one.group}: {one.sentence()}." for one in costly[:2]]
    counted = f"{scores.num_detections} detections on {scores.num_images} images"
    note = "Ranges: 95 % bootstrap interval over images."
    return tag(
        "div",
        document.numbers(entries),
        document.paragraphs(*said),
        tag("p", f"{counted}. {note}", class_="faint"),
    )


def weakest(analysis: Analysis) -> str | None:
    """Which class has the lowest AP, and whether finding or boxing loses more of it; None for a single class."""
    known = [(row, one) for row, one in enumerate(analysis.scores.per_class) if one.num_objects]
    if len(known) < 2:
        return None
    row, least = min(known, key=lambda pair: pair[1].ap)
    point = analysis.points[row]
    begin = f"The weakest class is {least.name}, AP {share(least.ap)}."
    if least.ap50 - least.ap > 1 - least.ap50:
        gaps = [one.ap50 - one.ap for _, one in known if one is not least]
        points, of_others = 100 * (least.ap50 - least.ap), 100 * sum(gaps) / len(gaps)
        why = _bias_or_scatter(analysis, least, len(known))
        return (
            f"{begin} It is found (AP50 {share(least.ap50)}), but its boxes are not tight: between AP50 and AP it "
            f"loses {points:.0f} points, the other classes {of_others:.0f}.{why}"
        )
    threshold = "in the model file" if analysis.are_thresholds_given else "of best F1"
    if point.precision != point.precision:  # NaN
        return f"{begin} It is never found: no detection of it reaches the threshold {threshold}."
    if point.recall < point.precision:
        return f"{begin} Much of it is missed: at the threshold {threshold}, {100 * (1 - point.recall):.0f} %."
    return (
        f"{begin} It is found where it is not: at the threshold {threshold}, {100 * (1 - point.precision):.0f} % of "
        "its detections are wrong."
    )


def _bias_or_scatter(analysis: Analysis, weak: ClassScore, num_classes: int) -> str:
    """Why its boxes are not tight; nothing where it has too few."""
    # Classes stand behind the sizes, whose names a class may have.
    mine = [one for one in analysis.localization[1:] if one.group == weak.name and one.speaks][-1:]
    if not mine:
        return ""
    lost = weak.ap50 - weak.ap
    gain = mine[0].ap_gain * num_classes  # the mean of all rises by its share of them
    points = f"{100 * max(0.0, gain):.0f} of the {100 * lost:.0f}"
    if gain >= lost / 2:
        return f" That is mostly bias: mending it would win back {points}."
    return (
        f" That is mostly scatter, {100 * mine[0].scatter:.0f} % of an object's side (standard deviation): mending "
        f"bias would win back {points}."
    )


def scores(analysis: Analysis) -> Html:
    twelve = [[name, share(value)] for name, value in zip(text.NAMES, analysis.scores.twelve(), strict=True)]
    head = ["class", "AP", "AP50", *_SIZES, "objects", "threshold", "precision", "recall", "F1"]
    rows: list[list[Html | str]] = []
    for row, one in enumerate(analysis.scores.per_class[:_MOST_ROWS]):
        point = analysis.points[row]
        values = [one.ap, one.ap50, *analysis.ap_by_size[row, 1:].tolist()]
        at_point = [point.threshold, point.precision, point.recall, point.f1]
        rows.append([one.name, *map(share, values), str(one.num_objects), *map(share, at_point)])
    notes = [f"Note: {note}." for note in analysis.scores.notes]
    if analysis.scores.num_tied:
        notes.append(
            f"{analysis.scores.num_tied} detections share their score with another of their class; "
            "the order of images and results ranks them."
        )
    hidden = len(analysis.scores.per_class) - len(rows)
    if hidden:
        notes.append(f"{hidden} more classes are not shown.")
    return document.section(
        "scores",
        "Scores",
        table(head, rows),
        document.paragraphs(
            "Precision, recall and F1 are those of detections at or above the threshold, at IoU 0.5. "
            "A dash: no object, or no detection.",
            "The thresholds are those in the model file, which predict takes too."
            if analysis.are_thresholds_given
            else "The thresholds are those of best F1 on these images; the model file holds none for predict.",
            *notes,
        ),
        document.folded("The twelve COCO numbers", table(["", "score"], [list(row) for row in twelve])),
    )


def curves(analysis: Analysis) -> Html:
    made = (
        (plots.precision_recall(analysis), "Precision over recall", "Precision over recall, most frequent classes."),
        (
            plots.f1_by_threshold(analysis),
            "F1 over the least score",
            "F1 over the least score; the dot is the threshold of the table.",
        ),
        (
            plots.calibration(analysis),
            "Calibration of scores",
            f"What a score is worth: on the dashed line it is the share that is right. "
            f"Mean distance {share(analysis.calibration.error)}.",
        ),
    )
    return document.section("curves", "Curves", _plots(made))


def errors(analysis: Analysis) -> Html:
    names = analysis.truth.names
    parts: list[Html] = [
        _plots(((plots.errors(analysis), "Cost of each kind of error", "In brackets: how many, at any score."),)),
        document.paragraphs(
            "classification: on an object of another class. localization: IoU 0.1 to 0.5 with an object of its class. "
            "both: IoU 0.1 to 0.5 with one of another class. duplicate: on an object that a better detection has. "
            "background: on nothing. missed: an object that no detection means. The costs do not add up."
        ),
        tag("h3", "Confusion at the thresholds of the table"),
    ]
    if len(names) <= plots.MOST_CELLS:
        parts.append(_plots(((plots.confusion(analysis), "Confusion matrix", "Rows: what it is. Columns: found as."),)))
    else:
        parts.append(_confused_pairs(analysis))
    return document.section("errors", "What is wrong", *parts)


def localization(analysis: Analysis) -> Html:
    said = [f"{line[0].upper()}{line[1:]}." for line in localizations.told(analysis.localization)]
    hidden = len(said) - 12
    if hidden > 0:
        said[11:-1] = [f"{hidden + 1} more groups are off; the table has them."]
    scattered = [
        f"All boxes together scatter by {100 * one.scatter:.1f} % of an object's side (standard deviation, mean "
        "of width, height, right and down)."
        for one in analysis.localization[:1]
        if one.speaks
    ]
    head = [
        "group",
        "pairs",
        "wider %",
        "taller %",
        "further right %",
        "further down %",
        "px",
        "scatter %",
        "AP gain",
        "AP75 gain",
    ]
    rows: list[list[Html | str]] = [
        [
            one.group,
            str(one.num_pairs),
            *(f"{100 * bias.relative:+.1f}" for bias in (one.wide, one.tall, one.right, one.down)),
            " ".join(f"{bias.pixels:+.1f}" for bias in (one.wide, one.tall, one.right, one.down)),
            " ".join(f"{100 * bias.spread:.1f}" for bias in (one.wide, one.tall, one.right, one.down)),
            f"{100 * one.ap_gain:+.1f}",
            f"{round(100 * one.ap75_gain):+d}",
        ]
        for one in analysis.localization[:_MOST_ROWS]
    ]
    picture = (plots.localization(analysis), "Signed errors of boxes", "Errors of boxes that meet their object.")
    return document.section(
        "boxes",
        "Where boxes lie",
        document.paragraphs(
            *said,
            *scattered,
            "Medians over detections that meet their object at IoU 0.5; ± is the 95 % interval. A class or size is "
            "named where its bias is not that of all boxes, and taking it out gives AP. The gain of AP75 is in whole "
            "points: of one IoU threshold alone, it moves by chance far more than that of AP.",
        ),
        _plots((picture,)) if any(one.speaks for one in analysis.localization) else None,
        document.folded("All groups", table(head, rows)),
    )


def _plots(made: Sequence[tuple[bytes, str, str]]) -> Html:
    figures = [
        document.figure(data_uri(content, "image/svg+xml"), caption, alt=alt, is_plot=True)
        for content, alt, caption in made
    ]
    return tag("div", *figures, class_="grid plots")


def _confused_pairs(analysis: Analysis) -> Html:
    """The largest cells off the diagonal, where a matrix would be too large to read."""
    names = [*analysis.truth.names, "background"]
    made = analysis.confusion.copy()
    np.fill_diagonal(made, 0)
    order = np.argsort(-made, axis=None, kind="stable")[:30]
    cells = [divmod(place, len(names)) for place in order.tolist()]
    rows: list[list[Html | str]] = [[names[a], names[b], str(made[a, b])] for a, b in cells if made[a, b]]
    return table(["is", "found as", "times"], rows, numbers_from=2)
