"""Write a model anew in another form."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from detector import files
from detector.errors import ConfigError
from detector.model import model_file

Half = Literal["float16", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOutcome:
    path: Path
    size: int
    """Bytes."""
    original_size: int


def export(checkpoint: Path, *, out: Path, half: Half, decode: Mapping[str, object] | None = None) -> ExportOutcome:
    """Write a model file with weights of half the size; see `detector export --help`.

    Raises:
        CheckpointError: it is no model file, or a weight does not fit.
        ConfigError: the file is there already, or cannot be written; or there is no such setting.
    """
    model_file.require_file(checkpoint)
    if out.exists():
        raise ConfigError(f"{out}: exists; name another file with --out, or remove it")
    if out.suffix != files.MODEL_SUFFIX:
        raise ConfigError(f"{out}: is no name of a model file; let it end in {files.MODEL_SUFFIX}")
    try:
        model_file.write_half(checkpoint, out, torch.float16 if half == "float16" else torch.bfloat16, decode=decode)
    except OSError as error:
        raise ConfigError(files.no_output(out, error)) from error
    return ExportOutcome(path=out, size=out.stat().st_size, original_size=checkpoint.stat().st_size)
