"""Start from weights that exist: our own model files, ResNets of torchvision and timm, detectors of torchvision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torchvision
from torch import Tensor
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from detector import files
from detector.config import Backbone, RunConfig
from detector.errors import CheckpointError
from detector.model import box_outputs, class_outputs, model_file, state_names, torch_file, transfer
from detector.model.box_outputs import Offsets
from detector.model.detector import DetectionModel
from detector.model.model_file import FORMAT, read_tensors, require_finite, require_whole
from detector.model.torch_file import NotPlainError
from detector.model.transfer import Origin, TakenOver

_LAST_LEVEL = 5  # of a backbone
_TORCHVISION_OFFSETS = Offsets(
    std=(1.0, 1.0, 1.0, 1.0),
    priors_wh=box_outputs.laid_out((4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3)), (0.5, 1.0, 2.0)),
)
_NO_CLASS = ("__background__", "N/A")  # outputs of COCO's numbering that nothing was ever labelled with
_WRAPPERS: Final = (
    # Averaged weights first: they are the better ones.
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "module",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """Tensors by name, and what a file of ours says of itself."""

    source: str
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]


def initialise(model: DetectionModel, init: str, config: RunConfig, classes: Sequence[str]) -> TakenOver | None:
    """Fill a fresh model from `none`, `imagenet`, or the path of a weights file.

    Args:
        model: With random weights.
        init: Which.
        config: Of the model.
        classes: Names, in the order of the model's outputs.

    Raises:
        CheckpointError: the weights cannot be had or read, or are of another trunk.
    """
    if init == "none":
        return None
    if init == "imagenet":
        file = _File(source="ImageNet (torchvision)", tensors=_imagenet(config.model.backbone), metadata={})
    else:
        file = _read(Path(init))
    require_finite(file.source, file.tensors)
    _require_weights(file)
    return transfer.load_fitting(model, _origin(file, config, classes), config, classes)


def _require_weights(file: _File) -> None:
    """Refuse numbers that no training of a network leaves."""
    for name, tensor in file.tensors.items():
        if tensor.ndim > 1 and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{file.source}: {name} holds {kind}; give the weights as floating point numbers")
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{file.source}: {name} holds variances below 0; take other weights")


def _origin(file: _File, config: RunConfig, classes: Sequence[str]) -> Origin:
    renamed = state_names.rename(file.tensors, file.source)
    if renamed.is_torchvision_detector:
        outputs = len(renamed.state.get("heads.classification.output.bias", ())) // len(_TORCHVISION_OFFSETS.priors_wh)
        listed = cast("list[str]", RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
        coco = tuple("" if name in _NO_CLASS else name for name in listed)
        # The file has no names. So many outputs are COCO's, unless not one class of the data is among them.
        is_coco = outputs == len(coco) and bool(class_outputs.same_names(classes, coco))
        return Origin(
            source=file.source,
            state=renamed.state,
            left=renamed.left,
            classes=coco if is_coco else (),
            classification="focal",
            offsets=_TORCHVISION_OFFSETS,
            first_level=_LAST_LEVEL + 1 - renamed.num_lateral,
            normed_towers=frozenset(("classification", "box") if renamed.has_tower_norm else ()),
        )
    inside = model_file.describe(Path(file.source), file.metadata) if file.metadata.get("format") == FORMAT else None
    theirs = config if inside is None else inside.config
    return Origin(
        source=file.source,
        state=renamed.state,
        left=renamed.left,
        classes=None if inside is None else inside.label_map.names,
        classification=theirs.loss.classification,
        offsets=box_outputs.of_model(theirs.model),
        first_level=theirs.model.pyramid.first_level,
        normed_towers=frozenset(head.name for head in theirs.model.heads if head.tower.norm == "group"),
    )


def _read(path: Path) -> _File:
    """A safetensors file or a file of `torch.save`, whatever its name; no code in it is ever run.

    Raises:
        CheckpointError: the file is missing, is something else, or is a damaged model of ours.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give a file, such as the best.safetensors of a run")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file (--init takes none, imagenet, or a file)")
    try:
        tensors, metadata = read_tensors(path)
    except CheckpointError:
        if path.suffix == files.MODEL_SUFFIX:
            raise
        return _read_pickled(path)
    if metadata.get("format") == FORMAT:
        require_whole(path, tensors, metadata)
    return _File(source=str(path), tensors=tensors, metadata=metadata)


def _read_pickled(path: Path) -> _File:
    try:
        content = torch_file.read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except NotPlainError as error:
        raise CheckpointError(
            f"{path}: is not a weights file that can be loaded safely: {error}; --init takes a safetensors file, "
            "or what torch.save(model.state_dict(), FILE) writes"
        ) from error
    wrappers, entries = _unwrapped(_entries(content))
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")
    source = f"{path} ({'.'.join(wrappers)})" if wrappers else str(path)
    return _File(source=source, tensors=tensors, metadata={})


def _unwrapped(entries: dict[object, object]) -> tuple[tuple[str, ...], dict[object, object]]:
    """The state dict in a checkpoint, and under which words it stood there."""
    for wrapper in _WRAPPERS:
        inner = _entries(entries.get(wrapper))
        if inner:
            words, found = _unwrapped(inner)
            if any(isinstance(value, Tensor) for value in found.values()):
                return (wrapper, *words), found
    return (), entries


def _entries(content: object) -> dict[object, object]:
    return cast("dict[object, object]", content) if isinstance(content, dict) else {}


def _imagenet(name: Backbone) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # no network, a wrong hash, a half-written file in the cache: each of its own kind
        raise CheckpointError(
            f"ImageNet weights of {name} cannot be fetched ({_first_line(error)}); download {weights.url} elsewhere "
            "and give the file to --init, or use --init none"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
