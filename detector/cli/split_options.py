"""What can be typed after `split`; as `options`, of which it is a part in a file of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro import conf

from detector.cli import options
from detector.cli.options import AsJson, Debug, shown

SPLIT_EXAMPLES = """\
examples:
  detector split all.json --images photos --out data
  detector split all.json --images photos --out data --val 0.15 --test 0.15
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Deal one COCO file into a data set with a validation split, which `train` takes."""

    annotations: Annotated[Path, conf.Positional, shown("FILE")]
    """COCO JSON of all images."""
    images: Annotated[Path | None, shown("DIR", "(where the file's names lead to)")] = None
    """Folder that its file names are relative to."""
    out: Annotated[Path, shown("DIR", "(required)")]
    """New folder. It gets the JSON files, and a link to the images."""
    val: float = 0.2
    """Share of the images that training is scored on."""
    test: float = 0.0
    """Share of the images that nothing is chosen on; 0 makes no such split."""
    seed: int = 0
    """Of the dealing."""
    as_json: AsJson = False
    debug: Debug = False


def parse_split(argv: Sequence[str]) -> Split:
    return options.parse(Split, argv, prog="detector split", examples=SPLIT_EXAMPLES)
