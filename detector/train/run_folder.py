"""The folder of one run: what a reader needs to know what was done, written before the first step."""

import hashlib
import json
import math
import os
import platform
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torchvision

from detector import config_file, files
from detector.config import RunConfig
from detector.errors import ConfigError
from detector.train import lock, run_status
from detector.types import LabelMap, Preprocess

_AGAIN = "the same command goes on from the last checkpoint"


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

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best_scores(self) -> Path:
        return self.path / "best-scores.json"

    @property
    def has_begun(self) -> bool:
        """Whether a step was recorded."""
        return self.metrics.is_file() and self.metrics.stat().st_size > 0

    def clean(self) -> None:
        """Remove what a crash left half written; only the process that holds the lock may."""
        for path in self.path.glob(".*.tmp"):
            if files.is_temporary(path) and path.is_file():
                path.unlink()

    def cut_metrics(self, length: int) -> int:
        """Move what stands behind `length` bytes, of steps that will be done again, to `metrics-cut.jsonl`.

        Returns how many lines that were.
        """
        if not self.metrics.is_file():
            return 0
        content = self.metrics.read_bytes()
        if length > 0 and content[length - 1 : length] not in (b"\n", b""):
            length = content.find(b"\n", length) + 1 or len(content)  # somebody has edited the file
        rest = content[length:]
        if not rest:
            return 0
        with (self.path / "metrics-cut.jsonl").open("ab") as aside:
            aside.write(rest if rest.endswith(b"\n") else rest + b"\n")
        with self.metrics.open("r+b") as metrics:
            metrics.truncate(length)
        return rest.count(b"\n")


def existing(out: Path | None) -> RunFolder | None:
    """The run that the folder holds, if it holds one; it may have been killed before anything but its lock was made.

    The lock tells it: nobody else has a file of this name, and other files of a run may be the user's own.
    """
    return RunFolder(path=out) if out is not None and (out / lock.FILE).is_file() else None


def last_unfinished(parent: Path = Path("runs")) -> Path:
    """The last of the numbered runs.

    Raises:
        ConfigError: it is finished, or there is none.
    """
    runs = sorted((path for path in parent.glob("train-*") if existing(path)), key=lambda path: (len(path.name), path))
    if not runs:
        raise ConfigError(f"{parent}: holds no run to resume; name the folder of one with --out, or leave --resume out")
    if not _is_finished(runs[-1]):
        return runs[-1]
    unfinished = [str(path) for path in runs if not _is_finished(path)]
    others = f"; not finished: {', '.join(unfinished[-3:])}" if unfinished else ""
    raise ConfigError(
        f"{runs[-1]}: the last run is finished{others}; name the one to go on with by --out, and a length with it if "
        "it is to become longer"
    )


def _is_finished(run: Path) -> bool:
    try:
        return run_status.read(run).state == "finished"
    except ConfigError:  # killed before it had a status
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFingerprint:
    """Which data a run saw."""

    annotations: str
    """Absolute: `report` may be called from elsewhere."""
    image_folder: str
    sha256: str
    images: int
    objects: int


def fingerprint(annotations: Path, image_folder: Path, *, images: int, objects: int) -> SplitFingerprint:
    return SplitFingerprint(
        annotations=str(annotations.absolute()),
        image_folder=str(image_folder.absolute()),
        sha256=hashlib.sha256(annotations.read_bytes()).hexdigest(),
        images=images,
        objects=objects,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
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
            raise ConfigError(f"{out}: is not an empty folder; name another with --out")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def claim(out: Path | None, *, prefix: str = "train") -> RunFolder:
    """Make the folder.

    Args:
        out: Empty or not there yet; None takes the next free `runs/PREFIX-NNN`.
        prefix: What such a folder is called.

    Raises:
        ConfigError: it holds something, or cannot be made.
    """
    require_free(out)
    try:
        folder = _next_free(Path("runs"), prefix) if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(why_unwritable(RunFolder(path=out or Path("runs")), error)) from error
    return RunFolder(path=folder)


def why_unwritable(folder: RunFolder, error: OSError) -> str:
    """What to say of a file of a run; one that has checkpoints is to go on where it is."""
    what = f"{error.filename or folder.path}: cannot be written ({error.strerror or error})"
    try:
        checkpoints = [path for path in folder.checkpoints.iterdir() if not path.name.startswith(".")]
        needed = max((_size(path) for path in checkpoints), default=0) / 10**6
    except OSError:
        checkpoints, needed = [], 0
    goes_on = bool(checkpoints) or not folder.has_begun
    then = "run the same command again" if goes_on else "start anew with another --out: there is no checkpoint"
    if files.is_full(error):
        room = f"; {files.free_megabytes(folder.path)} MB are free"
        wanted = f", {math.ceil(needed)} MB for the next checkpoint," if needed else ""
        return f"{what}{room}; free some space{wanted} and {then}"
    if checkpoints:
        return f"{what}; {files.cure(error)}, and {then}"
    return f"{what}; choose another --out"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def why_stopped(folder: RunFolder, error: OSError) -> str:
    """What to say where the system refused something while a run was going."""
    if not folder.path.exists():
        return f"{folder.path}: the run folder is gone"
    if not isinstance(error.filename, (str, bytes)):
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{where.name} in {Path(where.filename).name}: {error.strerror or error}"
        return f"{folder.path}: training stopped, since the system refused something ({what}); {_AGAIN}"
    named = Path(os.fsdecode(error.filename)).absolute()
    if named.is_relative_to(folder.path.absolute()):
        return why_unwritable(folder, error)
    return f"{named}: {error.strerror or error}; training stopped: see to it, and {_AGAIN}"


def describe(folder: RunFolder, config: RunConfig, facts: RunFacts) -> None:
    """Write config.yaml, environment.json and data.json.

    Raises:
        ConfigError: they cannot be written.
    """
    data = {
        "classes": asdict(facts.label_map),
        "preprocess": asdict(facts.preprocess),
        "splits": {name: asdict(split) for name, split in facts.splits.items()},
    }
    try:
        files.write_text(folder.path / "environment.json", _as_json(_environment(facts)))
        files.write_text(folder.path / "data.json", _as_json(data))
        files.write_text(folder.path / "config.yaml", config_file.dump(config))
    except OSError as error:
        raise ConfigError(why_unwritable(folder, error)) from error


def _next_free(parent: Path, prefix: str) -> Path:
    """Make the next folder; another run may start at the same moment, and only one of them makes it."""
    number = 1
    while True:
        folder = parent / f"{prefix}-{number:03}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _environment(facts: RunFacts) -> dict[str, object]:
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


def _as_json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
