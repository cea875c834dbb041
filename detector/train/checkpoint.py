"""Checkpoints: folders with `weights.safetensors`, `state.pt` and `manifest.json`, whole or not there.

A checkpoint is written into a folder with a temporary name, its files one after another to the disk, the manifest with
the checksums last; then the folder takes its name. So whatever bears a checkpoint's name was complete once, and
whatever is damaged later is found by its checksum. The manifest says its own checksum, and is accepted only in the very
bytes in which it was written.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] - its path is untyped
from torch import Tensor

from detector import files
from detector.errors import CheckpointError
from detector.model import model_file, torch_file
from detector.model.torch_file import NotPlainError
from detector.train.state import TrainingState

FORMAT = "detector-state-2"
KEPT = 2
"""The newest and the one before it."""
WEIGHTS, REST, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"
_NAME = re.compile(r"(\d{6})-step-(\d+)")
_DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a run is made of; going on with something else would be another run."""

    config: str
    """All settings, as YAML."""
    classes: tuple[str, ...]
    splits: dict[str, str]
    """Checksum of the annotations of each split."""
    teacher: str | None
    """Checksum of the teacher's file."""
    device: str
    precision: str
    environment: dict[str, str]
    """Versions and threads: a change is no error, but the last bits of the weights may depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The newest good checkpoint of a run."""

    path: Path
    state: TrainingState
    identity: Identity
    remarks: tuple[str, ...]
    """Why newer ones were passed over."""


class NotWrittenError(Exception):
    """A checkpoint could not be written; the earlier ones stand."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(reason)
        self.cure = cure


class Store:
    """The checkpoints of one run. Only the process that holds the run's lock may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Checkpoints by age, the newest last."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))

    def newest_step(self) -> int | None:
        """Of the newest checkpoint, by its name."""
        paths = self.paths()
        return int(paths[-1].name.rpartition("-")[2]) if paths else None

    def clean(self) -> None:
        """Remove what a crash left half written."""
        if self.folder.is_dir():
            for path in self.folder.glob(".*.tmp"):
                shutil.rmtree(path, ignore_errors=True)

    def write(self, state: TrainingState, identity: Identity) -> Path:
        """Write a snapshot as the newest checkpoint, then remove the oldest.

        Raises:
            NotWrittenError: the disk is full, the folder is gone, or the weights are not finite.
        """
        paths = self.paths()
        number = int(paths[-1].name[:6]) + 1 if paths else 1
        final = self.folder / f"{number:06}-step-{state.learner.steps}"
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        bad = model_file.first_not_finite(state.weights())
        if bad is not None:
            raise NotWrittenError(
                f"{bad} holds values that are not finite: the training diverged",
                "lower optim.lr, if going back to it does not help by itself",
            )
        try:
            # Not with its parents: where the run's folder is gone, somebody does not want it.
            self.folder.mkdir(exist_ok=True)
            temporary.mkdir()
            _write_parts(temporary, state, identity)
            temporary.rename(final)
            files.sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._not_written(files.os_error(error), state) from error
        for path in self.paths()[:-KEPT]:
            self._remove(path)
        return final

    def read_newest(self) -> Loaded | None:
        """The newest checkpoint that is as it was written; None where there is none at all.

        Raises:
            CheckpointError: there are some, and all are damaged.
        """
        remarks: list[str] = []
        for path in reversed(self.paths()):
            try:
                state, identity = read(path)
            except CheckpointError as error:
                remarks.append(str(error))
                continue
            return Loaded(path=path, state=state, identity=identity, remarks=tuple(remarks))
        if remarks:
            raise CheckpointError(
                f"{self.folder}: no checkpoint can be read: {'; '.join(remarks)}; "
                "copy one back from elsewhere, or start anew with another --out"
            )
        return None

    def go_back(self, say: Callable[[str], None]) -> Loaded | None:
        """The newest good one of a run that is going, and from now on its newest."""
        loaded = self.read_newest()
        if loaded is not None:
            for remark in loaded.remarks:
                say(f"warning: passed over: {remark}")
            self.set_aside(loaded.path)
        return loaded

    def set_aside(self, newest: Path) -> None:
        """Rename the damaged ones that are newer than `newest`, so that they are neither read again nor counted."""
        for path in self.paths():
            if path.name > newest.name:
                aside = path.with_name(path.name + _DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    def _remove(self, path: Path) -> None:
        """Take the name away first: a checkpoint that is half removed would look like a damaged one."""
        doomed = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.rename(doomed)
        except OSError:
            return  # an old checkpoint too many does no harm
        shutil.rmtree(doomed, ignore_errors=True)

    def _not_written(self, error: OSError, state: TrainingState) -> NotWrittenError:
        if not self.folder.parent.is_dir():
            return NotWrittenError(f"{self.folder.parent}: the run folder is gone", "start anew")
        reason = f"{self.folder}: {error.strerror or error}"
        if files.is_full(error):
            needed = math.ceil(_bytes([state.weights(), state.rest()]) / 10**6)
            reason += f" ({files.free_megabytes(self.folder)} MB are free, a checkpoint takes {needed} MB)"
        return NotWrittenError(reason, files.cure(error))


def read(path: Path) -> tuple[TrainingState, Identity]:
    """Read one checkpoint. Nothing in it is run: the weights are safetensors, the rest is loaded as plain values.

    Whoever can write a file can write its checksum; so even one that fits makes nobody trust what it says.

    Raises:
        CheckpointError: a part is missing, or is not as it was written.
    """
    manifest = _read_manifest(path / MANIFEST)
    sums = cast("dict[str, str]", manifest["sha256"])
    for name in (WEIGHTS, REST):
        _require_file(path / name)
        try:
            found = files.sha256(path / name)
        except OSError as error:
            raise CheckpointError(f"{path / name}: cannot be read ({error.strerror})") from error
        if found != sums.get(name):
            raise CheckpointError(f"{path / name}: the checksum does not fit: the file was damaged")
    weights, _ = model_file.read_tensors(path / WEIGHTS)
    try:
        rest = cast("dict[str, Any]", torch_file.read(path / REST))
        identity = dict(manifest["identity"])
        identity["classes"] = tuple(identity["classes"])
        return TrainingState.of_parts(weights, rest), Identity(**identity)
    except NotPlainError as error:
        raise CheckpointError(f"{path / REST}: cannot be read safely: {error}") from error
    except KeyError as error:
        missing = ", ".join(map(str, error.args))
        raise CheckpointError(f"{path}: lacks {missing}, as if written by another version") from error
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: was written by another version ({type(error).__name__}: {error})") from error


def _write_parts(folder: Path, state: TrainingState, identity: Identity) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in state.weights().items()}
    save_file(tensors, folder / WEIGHTS)
    torch_file.write(folder / REST, state.rest())
    for name in (WEIGHTS, REST):
        files.sync(folder / name)
    body = {
        "format": FORMAT,
        "step": state.learner.steps,
        "identity": asdict(identity),
        "sha256": {name: files.sha256(folder / name) for name in (WEIGHTS, REST)},
    }
    (folder / MANIFEST).write_text(_sealed(body), encoding="utf-8")
    files.sync(folder / MANIFEST)
    files.sync(folder)


def _bytes(value: object) -> int:
    """Of all the tensors in it."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(_bytes(item) for item in cast("dict[Any, object]", value).values())
    return sum(map(_bytes, cast("list[object]", value))) if isinstance(value, (list, tuple)) else 0


def _sealed(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, indent=2, sort_keys=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"manifest": body, "seal": seal}, indent=2, sort_keys=True) + "\n"


def _require_file(path: Path) -> None:
    """Reading a device or a pipe would never end."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: cannot be read (it is no regular file)")


def _read_manifest(path: Path) -> dict[str, Any]:
    _require_file(path)
    try:
        text = path.read_text(encoding="utf-8")
        body = cast("dict[str, Any]", json.loads(text)["manifest"])
        is_whole = _sealed(body) == text
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: was damaged") from error
    if not is_whole:
        raise CheckpointError(f"{path}: the checksum does not fit: the file was damaged")
    if body.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is of format {body.get('format')!r}, not {FORMAT!r}")
    return body
