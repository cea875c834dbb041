"""Names of other people's state dicts turned into ours: ResNets of torchvision and timm, detectors of torchvision.

Whatever a training wrapped around them (module., model., backbone.) is found by the trunk itself, which has the same
names everywhere.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from detector.errors import CheckpointError

BACKBONE = "backbone."
COUNTER = "num_batches_tracked"
_ANCHOR = "layer1.0.conv1.weight"
_TORCHVISION = "backbone.body."
_CLASSIFIER = "fc."
_BLOCKS = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """A state dict in our names, and what its names tell of the network it comes from."""

    state: dict[str, Tensor]
    left: tuple[str, ...]
    """Names of the file that have none among ours."""
    is_torchvision_detector: bool = False
    num_lateral: int = 3
    """torchvision: levels of the backbone that the pyramid reads; the last is 5."""
    has_tower_norm: bool = False
    """torchvision: of its heads."""


def rename(state: Mapping[str, Tensor], source: str) -> Renamed:
    """Find the ResNet in a state dict, and all else that we have a name for.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    trunk = _prefix(state, source)
    if trunk.endswith(_TORCHVISION):
        return _of_torchvision(dict(_without(trunk.removesuffix(_TORCHVISION), state)))
    if trunk.endswith(BACKBONE):
        inside = dict(_without(trunk.removesuffix(BACKBONE), state))
        known = {name: value for name, value in inside.items() if _is_ours(name)}
    else:
        inside = dict(_without(trunk, state))
        known = {BACKBONE + name: value for name, value in inside.items() if not name.startswith(_CLASSIFIER)}
        inside = {BACKBONE + name: value for name, value in inside.items()}
    return Renamed(state=known, left=tuple(name.removeprefix(BACKBONE) for name in inside if name not in known))


def trunk_name(state: Mapping[str, Tensor]) -> str | None:
    """Which ResNet a state dict in our names holds, by its count of blocks; None for one that we do not have."""
    blocks = [
        len({name.split(".")[2] for name in state if name.startswith(f"{BACKBONE}layer{layer}.")})
        for layer in (1, 2, 3, 4)
    ]
    is_bottleneck = f"{BACKBONE}layer1.0.conv3.weight" in state
    return _BLOCKS.get((blocks[0], blocks[1], blocks[2], blocks[3], is_bottleneck))


def _is_ours(name: str) -> bool:
    return name.startswith((BACKBONE, "neck.", "heads.")) and not name.startswith(BACKBONE + _CLASSIFIER)


def _prefix(state: Mapping[str, Tensor], source: str) -> str:
    """What stands before the names of the trunk."""
    found = sorted(name.removesuffix(_ANCHOR) for name in state if name.endswith(_ANCHOR))
    if not found:
        raise CheckpointError(
            f"{source}: holds no ResNet: not one of its {len(state)} tensors is {_ANCHOR}, by which torchvision and "
            f"timm know one; the first is {next(iter(state), 'missing')}"
        )
    if len(found) > 1:
        several = ", ".join(repr(prefix) for prefix in found)
        raise CheckpointError(f"{source}: holds {len(found)} ResNets, under {several}; save the one that is wanted")
    return found[0]


def _without(prefix: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value


_PYRAMID = (
    (re.compile(r"backbone\.fpn\.inner_blocks\.(\d+)\.(?:0\.)?(\w+)"), r"neck.lateral.\1.\2"),
    (re.compile(r"backbone\.fpn\.layer_blocks\.(\d+)\.(?:0\.)?(\w+)"), r"neck.output.\1.\2"),
    (re.compile(r"backbone\.fpn\.extra_blocks\.p6\.(\w+)"), r"neck.extra.0.\1"),
    (re.compile(r"backbone\.fpn\.extra_blocks\.p7\.(\w+)"), r"neck.extra.1.\1"),
    (re.compile(r"backbone\.body\.(?!fc\.)(.+)"), r"backbone.\1"),
    (re.compile(r"head\.classification_head\.cls_logits\.(\w+)"), r"heads.classification.output.\1"),
    (re.compile(r"head\.regression_head\.bbox_reg\.(\w+)"), r"heads.box.output.\1"),
)
_CENTERNESS = "head.regression_head.bbox_ctrness."
"""Of FCOS, which has no priors, and whose towers count their modules in another way."""
_TOWER = re.compile(r"head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(weight|bias)")


def _of_torchvision(state: Mapping[str, Tensor]) -> Renamed:
    """To the heads named classification and box, as the recipes name them; heads of FCOS are left in the file."""
    has_norm = any((tower := _TOWER.fullmatch(name)) and tower[3] == "1" for name in state)
    has_our_heads = not any(name.startswith(_CENTERNESS) for name in state)
    result: dict[str, Tensor] = {}
    left: list[str] = []
    for name, value in state.items():
        is_taken = has_our_heads or not name.startswith("head.")
        ours = (_tower_name(name, has_norm=has_norm) or _pyramid_name(name)) if is_taken else None
        if ours is None:
            left.append(name)
        else:
            result[ours] = value
    laterals = {name for name in result if name.startswith("neck.lateral.") and name.endswith(".weight")}
    return Renamed(
        state=result,
        left=tuple(left),
        is_torchvision_detector=True,
        num_lateral=len(laterals),
        has_tower_norm=has_norm and has_our_heads,
    )


def _pyramid_name(name: str) -> str | None:
    for pattern, ours in _PYRAMID:
        if pattern.fullmatch(name):
            return pattern.sub(ours, name)
    return None


def _tower_name(name: str, *, has_norm: bool) -> str | None:
    tower = _TOWER.fullmatch(name)
    if tower is None:
        return None
    head = "classification" if tower[1] == "classification" else "box"
    return f"heads.{head}.tower.{_tower_index(int(tower[2]), tower[3], has_norm=has_norm)}.{tower[4]}"


def _tower_index(block: int, part: str | None, *, has_norm: bool) -> int:
    """Position in our tower, where each block is convolution, (norm,) ReLU in one flat sequence."""
    if part is None:  # files from before torchvision 0.12 count convolutions and ReLUs in one sequence themselves
        block, part = block // 2, "0"
    return block * block_length(has_norm=has_norm) + int(part)


def block_length(*, has_norm: bool) -> int:
    """Modules of a block of a tower."""
    return 3 if has_norm else 2
