"""A trained model as one `.safetensors` file that describes itself.

Its metadata holds the configuration, the label map, the preprocess contract and a checksum over all of them and the
weights: the format itself has none, and most single flipped bits would load without a word.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] - its path is untyped
from torch import Tensor

from detector import config_file, files
from detector.config import RunConfig
from detector.errors import CheckpointError, ConfigError
from detector.model.detector import DetectionModel, build, misfit
from detector.types import LabelMap, Preprocess

FORMAT = "detector-1"
MOST_CLASSES = 100_000
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A network with everything needed to use it."""

    model: DetectionModel
    config: RunConfig
    label_map: LabelMap
    preprocess: Preprocess
    thresholds: tuple[float, ...] | None = None
    """Of each class, the score from which on it counts as found; None where nobody has chosen."""


def save(path: Path, trained: TrainedModel, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write whole or not at all: to a temporary file, to the disk, then under its name.

    Args:
        path: Where to; its folder exists.
        trained: What to write.
        weights: Instead of the model's own state, e.g. the averaged one.

    Raises:
        OSError: the disk is full, or the folder gone.
    """
    state = trained.model.state_dict() if weights is None else weights
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {
        "format": FORMAT,
        "config": config_file.dump(trained.config),
        "label_map": json.dumps(dataclasses.asdict(trained.label_map)),
        "preprocess": json.dumps(dataclasses.asdict(trained.preprocess)),
    }
    if trained.thresholds is not None:
        metadata["thresholds"] = json.dumps(trained.thresholds)
    _write(path, tensors, metadata)


def write_thresholds(path: Path, thresholds: tuple[float, ...]) -> None:
    """Put thresholds, one a class, into a model file; everything else in it stays.

    Raises:
        CheckpointError: as `load`.
    """
    count = len(load(path).label_map)
    assert len(thresholds) == count, f"{len(thresholds)} thresholds for {count} classes"
    tensors, metadata = read_tensors(path)
    _write(path, dict(tensors), {**metadata, "thresholds": json.dumps(thresholds)})


def write_half(
    source: Path,
    target: Path,
    dtype: torch.dtype,
    *,
    decode: Mapping[str, object] | None = None,
    compute: str | None = None,
) -> None:
    """Write a model file again, with weights of half the size; norms and biases, which are few, stay as they are.

    Args:
        source: The file.
        target: The new one.
        dtype: Of the weights.
        decode: As for `load`; from then on they are the model's own.
        compute: What setting `precision` is to be from now on; None leaves it.

    Raises:
        CheckpointError: as `load`; or a weight is beyond the range of `dtype`.
        ConfigError: as `load`.
        OSError: it cannot be written.
    """
    config = load(source, decode=decode).config
    if compute is not None:
        config = config_file.override(config, {"precision": compute})
    tensors, metadata = read_tensors(source)
    halved = {
        name: tensor.to(dtype) if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        for name, tensor in tensors.items()
    }
    name = first_not_finite(halved)
    if name is not None:
        kind = str(dtype).removeprefix("torch.")
        raise CheckpointError(f"{source}: {name} holds values beyond the range of {kind}; choose bfloat16")
    _write(target, halved, {**metadata, "config": config_file.dump(config)})


def _write(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    whole = {**metadata, "sha256": _checksum(tensors, metadata)}
    with files.written_whole(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=whole)
            _order_header(temporary)
        except SafetensorError as error:
            raise files.os_error(error) from error


def load(path: Path, device: torch.device | str = "cpu", *, decode: Mapping[str, object] | None = None) -> TrainedModel:
    """Read a model file, in evaluation mode.

    Args:
        path: The file.
        device: Where the model is to be.
        decode: Settings of `DecodeConfig` in place of those in the file, by name.

    Raises:
        CheckpointError: the file is missing, is something else, or was damaged.
        ConfigError: there is no such setting, or a value does not go with the others.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: is a safetensors file but not a detector model (format {metadata.get('format')!r}, "
            f"expected {FORMAT!r}); as a start for training give it to --init"
        )
    require_whole(path, tensors, metadata)
    tensors = {name: _widened(tensor) for name, tensor in tensors.items()}
    inside = describe(path, metadata)
    config, num_classes, preprocess = inside.config, len(inside.label_map), inside.preprocess
    reason = misfit(config, num_classes=num_classes, preprocess=preprocess, state=tensors)
    if reason is not None:
        raise CheckpointError(f"{path}: the weights do not fit the configuration inside: {reason}")
    model = build(config, num_classes=num_classes, preprocess=preprocess)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: the weights do not fit the configuration inside: {reason}") from error
    require_finite(str(path), tensors)
    config = config_file.override(config, {f"decode.{name}": value for name, value in (decode or {}).items()})
    return TrainedModel(
        model=model.eval().to(device),
        config=config,
        label_map=inside.label_map,
        preprocess=preprocess,
        thresholds=inside.thresholds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What a model file says of its weights."""

    config: RunConfig
    label_map: LabelMap
    preprocess: Preprocess
    thresholds: tuple[float, ...] | None


def describe(path: Path, metadata: Mapping[str, str]) -> Inside:
    """Read the metadata of a model file.

    Raises:
        CheckpointError: they are of another version, or incomplete.
    """
    try:
        label_map = _label_map(json.loads(metadata["label_map"]))
        return Inside(
            config=config_file.loads(metadata["config"], source=f"{path} (config inside)"),
            label_map=label_map,
            preprocess=Preprocess(**_tuples(json.loads(metadata["preprocess"]))),
            thresholds=_thresholds(metadata, len(label_map)),
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        hint = "it was written by another version" if isinstance(error, ConfigError) else "its metadata is incomplete"
        raise CheckpointError(f"{path}: {hint}: {error}") from error


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in HALVES else tensor


def require_whole(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Refuse a file of ours that is not as it was written.

    Raises:
        CheckpointError: the checksum inside is another.
    """
    if metadata.get("sha256") != _checksum(tensors, metadata):
        raise CheckpointError(f"{path}: the checksum does not fit: the file was damaged; copy it anew")


def require_finite(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that can only spread infinity and NaN.

    Raises:
        CheckpointError: naming the first tensor of the kind.
    """
    name = first_not_finite(tensors)
    if name is not None:
        raise CheckpointError(
            f"{source}: {name} holds values that are not finite: the training diverged; take other weights"
        )


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor that holds infinity or NaN."""
    return next((name for name, one in tensors.items() if one.is_floating_point() and not one.isfinite().all()), None)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file; no code in the file can run.

    Raises:
        CheckpointError: the file is missing or is not one.
    """
    require_file(path)
    try:
        with cast("AbstractContextManager[_Opened]", safetensors.safe_open(path, framework="pt")) as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is not a safetensors model file ({error}); give the best.safetensors of a run"
        ) from error


def require_file(path: Path) -> None:
    """See that there is a file, of whatever kind.

    Raises:
        CheckpointError: there is none.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give a model file, such as the best.safetensors of a run")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file; check the path")


class _Opened(Protocol):
    """What safetensors gives without saying so."""

    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...
    def metadata(self) -> dict[str, str] | None: ...


def _order_header(path: Path) -> None:
    """Sort the metadata: safetensors draws another order each time, and equal models are to be equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def _thresholds(metadata: Mapping[str, str], num_classes: int) -> tuple[float, ...] | None:
    if "thresholds" not in metadata:
        return None
    values = tuple(float(value) for value in json.loads(metadata["thresholds"]))
    if len(values) != num_classes or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"thresholds {values} are not {num_classes} numbers between 0 and 1")
    return values


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for key in sorted(set(metadata) - {"sha256"}):
        digest.update(f"{key}={metadata[key]}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _label_map(tree: Mapping[str, Any]) -> LabelMap:
    made = LabelMap(**_tuples(tree))
    names = cast("tuple[object, ...]", made.names)
    if not all(isinstance(name, str) for name in names) or not all(type(one) is int for one in made.category_ids):
        raise ValueError("its classes are not names with whole numbers")
    if len(made) > MOST_CLASSES:
        raise ValueError(f"{len(made)} classes are more than {MOST_CLASSES}")
    return made


def _tuples(tree: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where our dataclasses have tuples."""
    return {key: tuple(cast("list[Any]", value)) if isinstance(value, list) else value for key, value in tree.items()}
