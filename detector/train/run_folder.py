"""The folder of one run: what a reader needs to know what was done, written before the first step."""

import hashlib
import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision

from detector import config_file
from detector.config import RunConfig
from detector.errors import ConfigError
from detector.types import LabelMap, Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Paths in a run's folder."""

    path: Path

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFingerprint:
    """Which data a run saw."""

    annotations: str
    sha256: str
    images: int
    objects: int


def fingerprint(annotations: Path, *, images: int, objects: int) -> SplitFingerprint:
    digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
    return SplitFingerprint(annotations=str(annotations), sha256=digest, images=images, objects=objects)


def create(
    out: Path | None,
    *,
    config: RunConfig,
    device: torch.device,
    label_map: LabelMap,
    preprocess: Preprocess,
    splits: dict[str, SplitFingerprint],
) -> RunFolder:
    """Make the folder and write config.yaml, environment.json and data.json.

    Args:
        out: The folder, empty or not there yet; None takes the next free `runs/train-NNN`.
        config: All settings.
        device: Where training runs.
        label_map: Classes.
        preprocess: Canvas and normalisation.
        splits: Fingerprint of each split that is used.

    Raises:
        ConfigError: the folder holds a run already, or cannot be made.
    """
    try:
        folder = _next_free(Path("runs")) if out is None else out
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: is not an empty folder; name another with --out, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config_file.dump(config), encoding="utf-8")
        _write_json(folder / "environment.json", _environment(device))
        _write_json(
            folder / "data.json",
            {
                "classes": asdict(label_map),
                "preprocess": asdict(preprocess),
                "splits": {name: asdict(split) for name, split in splits.items()},
            },
        )
    except OSError as error:
        raise ConfigError(
            f"{out or 'runs'}: the run folder cannot be written ({error.strerror}); choose another --out"
        ) from error
    return RunFolder(path=folder)


def _next_free(parent: Path) -> Path:
    number = 1
    while (folder := parent / f"train-{number:03}").exists():
        number += 1
    return folder


def _environment(device: torch.device) -> dict[str, object]:
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_threads": torch.get_num_threads(),
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
