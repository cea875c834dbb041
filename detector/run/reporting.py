"""Write the report of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from detector import files
from detector.analysis.analyse import Analysis
from detector.errors import ConfigError
from detector.report import document, label_queue, page, run_sections
from detector.run import subject
from detector.run.data_paths import DataPaths

_HEAD = 1 << 12  # bytes within which a file of ours says so


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOutcome:
    path: Path
    labels_path: Path
    analysis: Analysis
    reused: bool


def report(
    given: Path,
    data: DataPaths,
    *,
    split: str,
    out: Path | None,
    device: str,
    say: Callable[[str], None] = lambda _: None,
) -> ReportOutcome:
    """One HTML file about a run folder or a model file, and the doubtful labels as COCO JSON beside it."""
    place = subject.Place.find(given)
    found = place.split(data, split)
    path = out if out is not None else (place.run or place.model.parent) / "report.html"
    labels_path = path.with_name(f"{path.stem}-labels.json")
    require_ours(path, document.GENERATOR)
    require_ours(labels_path, label_queue.DESCRIPTION)
    seen = subject.look(place, found, split, device=device, say=say, as_predicted=True)
    run = run_sections.read_facts(place.run) if place.run else None
    name = run.name if run else place.model.name
    content = page.render(
        page.Subject(
            title=f"Report: {name}, {split}",
            model=str(place.model),
            analysis=seen.analysis,
            paths=seen.paths,
            splits=subject.splits_of(place, {split: seen.columns}),
            run=run,
            labels_file=labels_path.name,
        )
    )
    write(path, content)
    write(labels_path, label_queue.text(label_queue.as_coco(seen.analysis, seen.analysis.suspects)))
    return ReportOutcome(path=path, labels_path=labels_path, analysis=seen.analysis, reused=seen.reused)


def require_ours(path: Path, mark: str) -> None:
    """Refuse to write over a file that another program made.

    Raises:
        ConfigError: it holds no mark of ours in its head.
    """
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if mark not in head.decode("utf-8", "replace"):
            raise ConfigError(f"{path}: was not written by this command; move it, or choose another --out")
    except OSError as error:
        raise ConfigError(files.no_output(path, error)) from error


def write(path: Path, content: str) -> None:
    """Write a whole file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, content)
    except OSError as error:
        raise ConfigError(files.no_output(path, error)) from error
