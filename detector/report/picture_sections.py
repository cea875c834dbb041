"""The parts of a report that are pictures: the worst images and the doubtful labels."""

from collections.abc import Mapping
from pathlib import Path

from detector.analysis import worst
from detector.analysis.analyse import Analysis
from detector.analysis.label_errors import Suspect
from detector.errors import DataError
from detector.report import document, pictures
from detector.report.html import Html, data_uri, tag, together

WORST = 12
CROPS = 40


def legend(thresholds: str = "the thresholds of the table") -> Html:
    return tag(
        "p",
        tag("b", "right", class_="right"),
        ", ",
        tag("b", "wrong", class_="wrong"),
        " (with class and score), ",
        tag("b", "missed", class_="missed"),
        f" (dashed). At {thresholds}, IoU 0.5.",
    )


def worst_images(analysis: Analysis, paths: Mapping[int, Path]) -> Html:
    """Images with most errors, by row of the truth."""
    chosen = worst.worst(analysis.tallies, WORST)
    figures = [
        judged(analysis, one.image_row, paths, f"{one.right} right, {one.wrong} wrong, {one.missed} missed")
        for one in chosen
    ]
    content = tag("div", *figures, class_="grid") if chosen else document.paragraphs("No image has an error.")
    return document.section("images", "Worst images", legend(), content)


def judged(analysis: Analysis, image_row: int, paths: Mapping[int, Path], remark: str) -> Html:
    path = paths[image_row]
    try:
        uri = data_uri(pictures.judged(analysis, image_row, path), "image/jpeg")
    except DataError as error:
        return tag("figure", tag("figcaption", f"{path.name}: {remark}. {error}"))
    return document.figure(uri, f"{path.name}: {remark}", alt=f"Boxes in {path.name}")


def doubtful_labels(analysis: Analysis, paths: Mapping[int, Path], exported: str) -> Html:
    """The head of the queue as crops; `exported` names the file with all of it."""
    suspects = analysis.suspects[:CROPS]
    crops = [_crop(analysis, one, paths[one.image_row]) for one in suspects]
    return document.section(
        "labels",
        "Labels to look at",
        document.paragraphs(
            "The labels that the model doubts most, first the most doubtful. White: the label. Dashed: what the model "
            f"proposes. A doubt is no proof. {exported} holds the queue as COCO JSON."
        ),
        tag("div", *crops, class_="crops") if crops else None,
    )


def _crop(analysis: Analysis, suspect: Suspect, path: Path) -> Html:
    caption = together(tag("b", suspect.doubt), f" {suspect.suspicion:.2f}", tag("br"), words(analysis, suspect))
    caption = together(caption, tag("br"), path.name)
    try:
        uri = data_uri(pictures.doubted(analysis, suspect, path), "image/jpeg")
    except DataError as error:
        return tag("figure", tag("figcaption", caption, f" {error}"))
    return document.figure(uri, caption, alt=f"{suspect.doubt} in {path.name}")


def words(analysis: Analysis, suspect: Suspect) -> str:
    """The doubt in classes."""
    names, proposed = analysis.truth.names, analysis.truth.names[suspect.class_row]
    match suspect.doubt:
        case "unlabelled":
            return f"{proposed} {suspect.score:.2f}?"
        case "wrong class":
            label = names[int(analysis.truth.objects.class_rows[suspect.object_row])]
            return f"{label}, or {proposed} {suspect.score:.2f}?"
        case "wrong box" | "nothing there":
            return proposed
