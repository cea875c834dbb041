"""The report of one model on one split, as one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detector.analysis.analyse import Analysis
from detector.data.columns import Columns
from detector.report import document, picture_sections, run_sections, score_sections
from detector.report.html import Html, tag
from detector.report.run_sections import RunFacts

_CONTENTS = [
    ("scores", "Scores"),
    ("errors", "What is wrong"),
    ("boxes", "Where boxes lie"),
    ("curves", "Curves"),
    ("images", "Worst images"),
    ("labels", "Labels to look at"),
    ("data", "Data"),
    ("training", "Training"),
    ("repeat", "Environment and command"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is reported on."""

    title: str
    model: str
    analysis: Analysis
    paths: Mapping[int, Path]  # of images, by row of the truth
    splits: Mapping[str, Columns]  # the data of the run, by name
    run: RunFacts | None
    labels_file: str


def render(subject: Subject) -> str:
    """The whole page; nothing outside it is needed to read it."""
    analysis, run = subject.analysis, subject.run
    sections: list[Html | None] = [
        score_sections.scores(analysis),
        score_sections.errors(analysis),
        score_sections.localization(analysis),
        score_sections.curves(analysis),
        picture_sections.worst_images(analysis, subject.paths),
        picture_sections.doubtful_labels(analysis, subject.paths, subject.labels_file),
        run_sections.data(subject.splits) if subject.splits else None,
        run_sections.training(run) if run else None,
        run_sections.repeat(run) if run else None,
    ]
    shown = [section for section in sections if section is not None]
    entries = [(name, title) for name, title in _CONTENTS if any(f'id="{name}"' in section[:60] for section in shown)]
    about = f"{subject.model}, scored on {analysis.truth.source}"
    head = (tag("p", about, class_="faint"), score_sections.headline(analysis), document.contents(entries))
    return document.page(subject.title, *head, *shown)
