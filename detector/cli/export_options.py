"""What can be typed after `export`; as `options`, of which it is a part in a file of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro import conf

from detector.cli import options
from detector.cli.options import AsJson, Debug, Imports, Settings, shown

EXPORT_EXAMPLES = """\
examples:
  detector export runs/train-001/best.safetensors --out small.safetensors
  detector export best.safetensors --precision bfloat16 --out small.safetensors
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Write a model file of half the size, which every command takes."""

    checkpoint: Annotated[Path, conf.Positional, shown("CHECKPOINT")]
    """Model file, such as best.safetensors of a run."""
    out: Annotated[Path, shown("FILE", "(required)")]
    """The new file."""
    precision: Literal["float16", "bfloat16"] = "float16"
    """Of the weights of convolutions. Norms and biases, which are few, stay float32."""
    settings: Settings = ()
    """Setting of how boxes are read off, such as decode.zooms=[1.0]; from then on the model's own."""
    imports: Imports = ()
    as_json: AsJson = False
    debug: Debug = False


def parse_export(argv: Sequence[str]) -> Export:
    return options.parse(Export, argv, prog="detector export", examples=EXPORT_EXAMPLES)
