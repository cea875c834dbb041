"""Start from weights that exist: our own model files, and torchvision's ResNets and RetinaNets."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torchvision
from torch import Tensor

from detector.config import Backbone, RunConfig
from detector.errors import CheckpointError
from detector.model.detector import DetectionModel
from detector.model.model_file import read_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What an initialisation took over and what keeps its random start."""

    source: str
    taken: tuple[str, ...]
    random: tuple[str, ...]

    def sentence(self) -> str:
        parts = sorted({name.split(".")[0] for name in self.random})
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
        return _take(model, _backbone_keys(_imagenet(config.model.backbone)), "ImageNet (torchvision)")
    path = Path(init)
    return _take(model, translate(read_state(path), model), str(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a `.safetensors` file or of a file of `torch.save`; code inside a pickle is never run."""
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file (--init takes none, imagenet, or a file)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is not a weights file that can be loaded safely ({reason})") from error
    entries = _entries(content)
    state = _entries(entries.get("model", content))
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no state dict (a mapping of names to tensors)")
    return tensors


def translate(state: Mapping[str, Tensor], model: DetectionModel) -> dict[str, Tensor]:
    """Names of torchvision's RetinaNet or ResNet turned into ours; our own names stay."""
    if any(name.startswith("head.classification_head.") for name in state):
        return _retinanet_keys(state, norm_in_towers=len(model.box.tower) % 3 == 0 and len(model.box.tower) > 0)
    if any(name.startswith("backbone.") for name in state):
        return dict(state)
    return _backbone_keys(state)


def _entries(content: object) -> dict[object, object]:
    return cast("dict[object, object]", content) if isinstance(content, dict) else {}


def _imagenet(name: Backbone) -> dict[str, Tensor]:
    weights = torchvision.models.get_model_weights(name)["DEFAULT"]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise CheckpointError(
            f"ImageNet weights of {name} cannot be fetched ({error}); download {weights.url} elsewhere "
            "and give the file to --init, or use --init none"
        ) from error


def _backbone_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}


_PYRAMID = (
    (re.compile(r"backbone\.fpn\.inner_blocks\.(\d+)\.(?:0\.)?(\w+)"), r"pyramid.lateral.\1.\2"),
    (re.compile(r"backbone\.fpn\.layer_blocks\.(\d+)\.(?:0\.)?(\w+)"), r"pyramid.output.\1.\2"),
    (re.compile(r"backbone\.fpn\.extra_blocks\.p6\.(\w+)"), r"pyramid.extra.0.\1"),
    (re.compile(r"backbone\.fpn\.extra_blocks\.p7\.(\w+)"), r"pyramid.extra.1.\1"),
    (re.compile(r"backbone\.body\.(.+)"), r"backbone.\1"),
    (re.compile(r"head\.classification_head\.cls_logits\.(\w+)"), r"classification.output.\1"),
    (re.compile(r"head\.regression_head\.bbox_reg\.(\w+)"), r"box.output.\1"),
)
_TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(weight|bias)")


def _retinanet_keys(state: Mapping[str, Tensor], *, norm_in_towers: bool) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if tower := _TOWER.fullmatch(name):
            head = "classification" if tower[1] == "classification" else "box"
            result[f"{head}.tower.{_tower_index(int(tower[2]), tower[3], norm_in_towers)}.{tower[4]}"] = value
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
