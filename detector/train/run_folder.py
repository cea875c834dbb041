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

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def balance_plot(self) -> Path:
        return self.path / "balance.png"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What decides a run besides its settings."""

    device: torch.device
    dtype: torch.dtype
    init: str
    label_map: LabelMap
    preprocess: Preprocess
    splits: dict[str, SplitFingerprint]

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def require_free(out: Path | None) -> None:
    """See early that a run can be written there.

    Raises:
        ConfigError: the folder holds something, or what stands above it is no folder.
    """
    if out is None:
        return
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out}: is not an empty folder; name another with --out, or remove it")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def create(out: Path | None, config: RunConfig, facts: Facts) -> RunFolder:
    """Make the folder and write config.yaml, environment.json and data.json.

    Args:
        out: The folder, empty or not there yet; None takes the next free `runs/train-NNN`.
        config: All settings.
        facts: Everything else that decides the run.

    Raises:
        ConfigError: the folder holds a run already, or cannot be made.
    """
    require_free(out)
    try:
        folder = _next_free(Path("runs")) if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config_file.dump(config), encoding="utf-8")
        _write_json(folder / "environment.json", _environment(facts))
        _write_json(
            folder / "data.json",
            {
                "classes": asdict(facts.label_map),
                "preprocess": asdict(facts.preprocess),
                "splits": {name: asdict(split) for name, split in facts.splits.items()},
            },
        )
    except OSError as error:
        raise ConfigError(
            f"{out or 'runs'}: the run folder cannot be written ({error.strerror}); choose another --out"
        ) from error
    return RunFolder(path=folder)


def _next_free(parent: Path) -> Path:
    """Make the next folder; another run may start at the same moment, and only one of them makes it."""
    number = 1
    while True:
        folder = parent / f"train-{number:03}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _environment(facts: Facts) -> dict[str, object]:
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name(facts.device) if facts.device.type == "cuda" else "cpu",
        "precision": facts.precision,
        "init": facts.init,
        "cpu_threads": torch.get_num_threads(),
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
