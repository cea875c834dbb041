"""What `report` and `compare` do with their options; `cli` opens the door to them."""

import sys
from typing import TYPE_CHECKING

from detector.answer import Answer
from detector.printable import visible
from detector.report_options import Compare, Report

if TYPE_CHECKING:
    from detector.run import EvalOutcome


def thresholds(outcome: "EvalOutcome") -> str:
    """Lines on the thresholds that eval wrote, where it did."""
    if not outcome.thresholds:
        return ""
    from detector.run import thresholds as chosen

    return "\n".join(["thresholds in the model file:", *chosen.lines(outcome.thresholds), "", ""])


def report(options: Report) -> Answer:
    from detector import run
    from detector.evaluate import text

    outcome = run.report(
        options.run,
        run.DataPaths(folder=options.data),
        split=options.split,
        out=options.out,
        device=options.device,
        say=_say,
    )
    analysis = outcome.analysis
    lines = [visible(f"{one.group}: {sentence}") for one in analysis.localization if (sentence := one.sentence())]
    return Answer(
        text="\n".join(
            [
                text.table(analysis.scores, analysis.intervals),
                "",
                *lines[:5],
                f"report  {outcome.path}",
                f"labels  {outcome.labels_path}",
            ]
        ),
        values={
            "report": str(outcome.path),
            "labels": str(outcome.labels_path),
            "scores": text.as_json(analysis.scores, analysis.intervals),
            "errors": [{"kind": one.kind, "count": one.count, "ap50_lost": one.ap50_lost} for one in analysis.errors],
            "localization": lines,
        },
    )


def compare(options: Compare) -> Answer:
    from detector import run

    outcome = run.compare(
        options.first,
        options.second,
        run.DataPaths(folder=options.data),
        split=options.split,
        out=options.out,
        device=options.device,
        say=_say,
    )
    return Answer(text=outcome.text, values=outcome.values)


def _say(line: str) -> None:
    """Progress, with what a terminal would act on spelt out."""
    sys.stderr.write(visible(line) + "\n")
