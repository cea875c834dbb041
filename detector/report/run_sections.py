"""The parts of a report about the data and the run."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from detector.data.columns import Columns
from detector.report import balance, document, plots
from detector.report.html import Html, data_uri, table, tag


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run folder tells; empty where a file is missing."""

    name: str
    command: str
    environment: Mapping[str, str]
    config: str
    metrics: Path


def data(splits: Mapping[str, Columns]) -> Html:
    """Health of each split."""
    parts: list[Html] = []
    for name, columns in splits.items():
        report, real = columns.report, ~columns.is_crowd
        counts = [int((columns.labels[real] == label).sum()) for label in range(len(columns.label_map))]
        boxes = columns.boxes[real]
        sides = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clip(min=0) ** 0.5
        lines = [f"{line}." for line in report.lines()]
        parts += [tag("h3", name), document.paragraphs(*lines)]
        if len(sides):
            made = (
                (plots.class_sizes(columns.label_map.names, counts), f"Objects by class, {name}"),
                (plots.box_sizes(sides.tolist()), f"Sizes of objects, {name}"),
            )
            figures = [
                document.figure(data_uri(content, "image/svg+xml"), caption, alt=caption, is_plot=True)
                for content, caption in made
            ]
            parts.append(tag("div", *figures, class_="grid plots"))
    return document.section("data", "Data", *parts)


def training(facts: RunFacts) -> Html | None:
    """Losses, balance of gradients, validation and speed, as the run wrote them down."""
    rows = _rows(facts.metrics)
    steps = [row for row in rows if row.get("kind") == "train"]
    scored = [row for row in rows if row.get("kind") == "evaluation" and _is_number(row.get("ap"))]
    if not steps:
        return None
    parts: list[Html | None] = []
    picture = balance.png(facts.metrics)
    if picture is not None:
        uri = data_uri(picture, "image/png")
        caption = "Gradient balance, losses, agreement."
        parts.append(document.figure(uri, caption, alt="Loss balance", is_plot=True, is_broad=True))
    if len(scored) > 1:
        content = plots.validation(
            [row["step"] for row in scored], [row["ap"] for row in scored], [row["ap50"] for row in scored]
        )
        caption = "Scores on the validation split while training."
        parts.append(document.figure(data_uri(content, "image/svg+xml"), caption, alt="Scores by step", is_plot=True))
    speeds = sorted(row["images_per_second"] for row in steps if _is_number(row.get("images_per_second")))
    last = steps[-1]
    facts_of_time = [f"{last.get('step')} steps"]
    if _is_number(last.get("seconds")):
        facts_of_time.append(f"{last['seconds'] / 60:.1f} minutes")
    if speeds:
        facts_of_time.append(f"{speeds[len(speeds) // 2]:.1f} images a second (median)")
    return document.section("training", "Training", document.paragraphs(", ".join(facts_of_time) + "."), *parts)


def repeat(facts: RunFacts) -> Html:
    """What is needed to do it again."""
    rows: list[list[Html | str]] = [[name, value] for name, value in facts.environment.items()]
    return document.section(
        "repeat",
        "Environment and command",
        tag("pre", facts.command) if facts.command else None,
        table(["", ""], rows, numbers_from=2),
        document.folded("All settings", tag("pre", facts.config)) if facts.config else None,
    )


def read_facts(folder: Path) -> RunFacts:
    environment = _object(folder / "environment.json")
    command = environment.pop("command", [])
    words = cast("list[Any]", command) if isinstance(command, list) else [command]
    config = folder / "config.yaml"
    return RunFacts(
        name=folder.resolve().name,
        command=" ".join(_quoted(str(word)) for word in words),
        environment={name: str(value) for name, value in environment.items()},
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        metrics=folder / "metrics.jsonl",
    )


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)


def _object(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _rows(path: Path) -> Sequence[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row: Any = json.loads(line)
            except ValueError:  # half a line, where a run was killed
                continue
            if isinstance(row, dict):
                rows.append(cast("dict[str, Any]", row))
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
