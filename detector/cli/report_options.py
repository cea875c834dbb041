"""What can be typed after `report`, `compare`, `status` and `replay`; a part of `options` in a file of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro import conf

from detector.cli import options
from detector.cli.options import AsJson, Debug, Device, Imports, shown

REPORT_EXAMPLES = """\
examples:
  detector report runs/train-001
  detector report runs/train-001 data/blood-cells --split test --out test.html
"""

COMPARE_EXAMPLES = """\
examples:
  detector compare runs/train-001 runs/train-002
  detector compare a.safetensors b.safetensors data/blood-cells --split test
  detector compare a.json b.json --ground-truth data/blood-cells/test.json
"""


STATUS_EXAMPLES = """\
examples:
  detector status runs/train-001
  detector status runs/train-001 --json
"""

REPLAY_EXAMPLES = """\
examples:
  detector replay runs/train-001/nonfinite-step-120.pt
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Write one HTML file about a run: scores, errors, pictures, data, training."""

    run: Annotated[Path, conf.Positional, shown("RUN")]
    """Folder of a training run, or a model file."""
    data: Annotated[Path | None, conf.Positional, shown("[DATA]", "(default: the data of the run)")] = None
    """Data set folder."""
    split: Literal["train", "val", "test"] = "val"
    """Part of the data set."""
    out: Annotated[Path | None, shown("FILE", "(default: report.html in RUN)")] = None
    """The HTML file. The labels to look at go beside it, as COCO JSON."""
    device: Device = "auto"
    imports: Imports = ()
    as_json: AsJson = False
    debug: Debug = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Say whether the second of two models is better, and where they differ."""

    first: Annotated[Path, conf.Positional, shown("A")]
    """Folder of a training run, a model file, or, with --ground-truth, a COCO results file."""
    second: Annotated[Path, conf.Positional, shown("B")]
    """The other."""
    data: Annotated[Path | None, conf.Positional, shown("[DATA]", "(default: the data of A)")] = None
    """Data set folder."""
    split: Literal["train", "val", "test"] = "val"
    """Part of the data set."""
    out: Annotated[Path | None, shown("FILE")] = None
    """HTML file with the pictures that flipped."""
    ground_truth: Annotated[Path | None, shown("FILE")] = None
    """COCO file against which A and B, results files then, are scored; no model is run."""
    device: Device = "auto"
    imports: Imports = ()
    as_json: AsJson = False
    debug: Debug = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Say how a training run stands."""

    run: Annotated[Path, conf.Positional, conf.arg(metavar="RUN")]
    """Its folder."""
    as_json: AsJson = False
    debug: Debug = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Compute a step again that was left out of a training because it was not finite."""

    file: Annotated[Path, conf.Positional, conf.arg(metavar="FILE")]
    """nonfinite-step-N.pt of a run folder."""
    imports: Imports = ()
    as_json: AsJson = False
    debug: Debug = False


def parse_report(argv: Sequence[str]) -> Report:
    return options.parse(Report, argv, prog="detector report", examples=REPORT_EXAMPLES)


def parse_compare(argv: Sequence[str]) -> Compare:
    return options.parse(Compare, argv, prog="detector compare", examples=COMPARE_EXAMPLES)


def parse_status(argv: Sequence[str]) -> Status:
    return options.parse(Status, argv, prog="detector status", examples=STATUS_EXAMPLES)


def parse_replay(argv: Sequence[str]) -> Replay:
    return options.parse(Replay, argv, prog="detector replay", examples=REPLAY_EXAMPLES)
