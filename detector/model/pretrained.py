"""Start from weights that exist: our own model files, and torchvision's ResNets and RetinaNets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torchvision
from torch import Tensor

from detector.config import Backbone, RunConfig
from detector.errors import CheckpointError
from detector.model import torch_file
from detector.model.detector import DetectionModel
from detector.model.model_file import FORMAT, read_tensors, require_finite, require_whole
from detector.model.torch_file import NotPlainError


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What an initialisation took over and what keeps its random start."""

    source: str
    taken: tuple[str, ...]
    random: tuple[str, ...]

    def sentence(self) -> str:
        parts = sorted({".".join(name.split(".")[: 2 if name.startswith("heads.") else 1]) for name in self.random})
        rest = f"; random: {len(self.random)} in {', '.join(parts)}" if self.random else ""
        return f"weights from {self.source}: {len(self.taken)} tensors taken{rest}"


def initialise(model: DetectionModel, init: str, config: RunConfig) -> Loaded | None:
    """Fill a fresh model from `none`, `imagenet`, or the path of a weights file.

    Raises:
        CheckpointError: the weights cannot be had or read, or not one tensor of them fits.
    """
    if init == "none":
        return None
    if init == "imagenet":
        source, state = "ImageNet (torchvision)", _imagenet(config.model.backbone)
    else:
        source, state = init, read_state(Path(init))
    require_finite(source, state)
    return _take(model, translate(state, model), source)


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a safetensors file or of a file of `torch.save`, whatever its name; no code in it is ever run.

    Raises:
        CheckpointError: the file is missing, is something else, or is a damaged model of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file (--init takes none, imagenet, or a file)")
    try:
        tensors, metadata = read_tensors(path)
    except CheckpointError:
        if path.suffix == ".safetensors":
            raise
        return _read_pickled(path)
    if metadata.get("format") == FORMAT:
        require_whole(path, tensors, metadata)
    return tensors


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = torch_file.read(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except NotPlainError as error:
        raise CheckpointError(
            f"{path}: is not a weights file that can be loaded safely: {error}; --init takes a safetensors file, "
            "or tensors by name as torch.save writes them"
        ) from error
    entries = _entries(content)
    state = _entries(entries.get("model", content))
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return tensors


def translate(state: Mapping[str, Tensor], model: DetectionModel) -> dict[str, Tensor]:
    """Names of torchvision's RetinaNet or ResNet turned into ours; our own names stay."""
    if any(name.startswith("head.classification_head.") for name in state):
        return _retinanet_keys(state, model)
    if any(name.startswith("backbone.") for name in state):
        return dict(state)
    return _backbone_keys(state)


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


def _backbone_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}


_PYRAMID = (
    (re.compile(r"backbone\.fpn\.inner_blocks\.(\d+)\.(?:0\.)?(\w+)"), r"neck.lateral.\1.\2"),
    (re.compile(r"backbone\.fpn\.layer_blocks\.(\d+)\.(?:0\.)?(\w+)"), r"neck.output.\1.\2"),
    (re.compile(r"backbone\.fpn\.extra_blocks\.p6\.(\w+)"), r"neck.extra.0.\1"),
    (re.compile(r"backbone\.fpn\.extra_blocks\.p7\.(\w+)"), r"neck.extra.1.\1"),
    (re.compile(r"backbone\.body\.(.+)"), r"backbone.\1"),
    (re.compile(r"head\.classification_head\.cls_logits\.(\w+)"), r"heads.classification.output.\1"),
    (re.compile(r"head\.regression_head\.bbox_reg\.(\w+)"), r"heads.box.output.\1"),
)
_TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(weight|bias)")


def _retinanet_keys(state: Mapping[str, Tensor], model: DetectionModel) -> dict[str, Tensor]:
    """To the heads named classification and box, as the recipes name them."""
    norm_in_towers = any(head.kind == "box" and head.tower.norm == "group" for head in model.heads.configs)
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if tower := _TOWER.fullmatch(name):
            head = "classification" if tower[1] == "classification" else "box"
            result[f"heads.{head}.tower.{_tower_index(int(tower[2]), tower[3], norm_in_towers)}.{tower[4]}"] = value
            continue
        for pattern, ours in _PYRAMID:
            if pattern.fullmatch(name):
                result[pattern.sub(ours, name)] = value
                break
    return result


def _tower_index(block: int, part: str | None, norm_in_towers: bool) -> int:
    """Position in our tower, where each block is convolution, (norm,) ReLU in one flat sequence."""
    if part is None:  # files from before torchvision 0.12 count convolutions and ReLUs in one sequence themselves
        return block // 2 * (3 if norm_in_towers else 2)
    return block * (3 if norm_in_towers else 2) + int(part)


def _take(model: DetectionModel, state: Mapping[str, Tensor], source: str) -> Loaded:
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(f"{source}: not one of its {len(state)} tensors fits this model; check model.backbone")
    model.load_state_dict(fitting, strict=False)
    missing = tuple(name for name in own if name not in fitting and not name.endswith("num_batches_tracked"))
    return Loaded(source=source, taken=tuple(fitting), random=missing)
