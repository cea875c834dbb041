"""Settings of the network."""

import re
from dataclasses import dataclass
from typing import Literal

from detector.config.rules import require
from detector.errors import ConfigError

TRUNK = "trunk"
MOST_CHANNELS = 2048
_MOST_PRIORS = 16
_MOST_HEADS = 16
_RESERVED = (TRUNK, "backbone", "neck", "heads", "features", "adapters")


Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
TrunkNorm = Literal["batch", "sync", "frozen", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidConfig:
    """Feature pyramid (Lin et al. 2017). Level l has stride 2**l."""

    first_level: int = 3
    last_level: int = 7
    width: int = 256
    extra_from: Literal["backbone", "pyramid"] = "backbone"
    """Input of the first level above the backbone: its last feature (C5), or the pyramid's (P5)."""

    def __post_init__(self) -> None:
        require(2 <= self.first_level <= 5, "model.pyramid.first_level", "between 2 and 5", self.first_level)
        require(
            max(5, self.first_level) <= self.last_level <= 8,
            "model.pyramid.last_level",
            "between 5 and 8",
            self.last_level,
        )
        require(8 <= self.width <= MOST_CHANNELS, "model.pyramid.width", f"between 8 and {MOST_CHANNELS}", self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """The convolutions of one head before its output layer."""

    depth: int = 4
    width: int = 256
    norm: Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        require(0 <= self.depth <= 8, "model.heads.<name>.tower.depth", "between 0 and 8", self.depth)
        require(
            8 <= self.width <= MOST_CHANNELS,
            "model.heads.<name>.tower.width",
            f"between 8 and {MOST_CHANNELS}",
            self.width,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """One head: what it reads and what it predicts."""

    name: str
    kind: Literal["classification", "box", "quality", "custom"]
    """`quality` predicts the IoU of the found box with its object; its score is multiplied in at decoding."""
    input: str = TRUNK
    """`trunk`, or the name of an earlier head, whose features this one then reads beside the trunk's (a cascade).
    A box head that reads a box head refines its boxes."""
    tower: TowerConfig = TowerConfig()
    weight: float = 1.0
    """Of all losses of this head together."""
    factory: str | None = None
    """custom: `module:Class`, a `detector.model.heads.CustomHead` in a module that --import named."""

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[a-z][a-z0-9_]*", self.name) is not None and self.name not in _RESERVED,
            "model.heads.<name>.name",
            f"a word of a-z, 0-9 and _ that is none of {', '.join(_RESERVED)}",
            repr(self.name),
        )
        require(self.weight >= 0, f"model.heads.{self.name}.weight", ">= 0", self.weight)
        if (self.factory is not None) != (self.kind == "custom"):
            raise ConfigError(f"model.heads.{self.name}: kind custom and a factory go together")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorConfig:
    """Reference boxes of every cell: each scale with each ratio."""

    scales: tuple[float, ...] = (8.0,)
    """Side of a square prior in strides."""
    ratios: tuple[float, ...] = (1.0,)
    """Height over width at equal area."""
    anchoring: Literal["centre", "corner"] = "centre"
    """Where in its cell a prior is centred; `corner` and whole pixels as torchvision has them."""

    def __post_init__(self) -> None:
        for name in ("scales", "ratios"):
            values = getattr(self, name)
            require(
                0 < len(values) <= _MOST_PRIORS and min(values) > 0,
                f"model.priors.{name}",
                f"1 to {_MOST_PRIORS} positive numbers",
                values,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Trunk and heads."""

    backbone: Backbone = "resnet50"
    norm: TrunkNorm = "batch"
    """Of the backbone. batch: statistics of the images that a process has; sync: those of all processes, on GPUs;
    frozen: ImageNet's; group: GroupNorm (Wu and He 2018), of each image alone, for training from random weights."""
    frozen_stages: int = 0
    """Backbone parts that do not learn, from the input on: 1 is the stem, 2 adds layer1, up to 5."""
    neck: Literal["pyramid", "pool"] = "pyramid"
    """`pool` averages the last features over the image: one prediction an image, for the localizer."""
    pyramid: PyramidConfig = PyramidConfig()
    heads: tuple[HeadConfig, ...] = (
        HeadConfig(name="classification", kind="classification"),
        HeadConfig(name="box", kind="box"),
    )
    cascade_gradient: Literal["full", "detach"] = "full"
    """Whether the loss of a head that reads another also teaches that other."""
    priors: PriorConfig = PriorConfig()
    delta_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    """Unit of the four box offsets (dx, dy, dw, dh)."""
    class_prior: float = 0.01
    """Probability every class starts with (Lin et al. 2017, focal loss, section 4.1)."""

    @property
    def norm_mixes_images(self) -> bool:
        """Whether what an image gives in training depends on the others of its batch."""
        return self.norm in ("batch", "sync")

    def __post_init__(self) -> None:
        require(0 <= self.frozen_stages <= 5, "model.frozen_stages", "between 0 and 5", self.frozen_stages)
        require(min(self.delta_std) > 0, "model.delta_std", "four positive numbers", self.delta_std)
        require(0 < self.class_prior < 1, "model.class_prior", "between 0 and 1", self.class_prior)
        _check_heads(self.heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """From raw predictions to detections."""

    min_score: float = 0.001
    """Kept low: mAP is an integral over all scores. `predict --score` cuts later."""
    nms_iou: float = 0.6
    candidates: int = 1000
    """Best priors kept before suppression."""
    candidates_per_level: bool = False
    """Count `candidates` for each pyramid level instead of the whole image, as torchvision does."""
    max_detections: int = 100
    voting: float = 0.0
    """Above 0 each box that is kept becomes a mean of the boxes around it; see `geometry.suppress.vote`."""
    mirror: bool = False
    """Look at each image mirrored too, in twice the time. A score is then the mean over the views, a box is chosen
    among those of all."""
    zooms: tuple[float, ...] = (1.0,)
    """Sizes at which each image is looked at, relative to the canvas; each costs its square in time. Scores and boxes
    of several come together as those of `mirror`."""

    def __post_init__(self) -> None:
        require(0 <= self.min_score < 1, "decode.min_score", "at least 0 and below 1", self.min_score)
        require(0 <= self.nms_iou <= 1, "decode.nms_iou", "between 0 and 1", self.nms_iou)
        require(1 <= self.candidates <= 100_000, "decode.candidates", "between 1 and 100000", self.candidates)
        require(
            1 <= self.max_detections <= 100_000, "decode.max_detections", "between 1 and 100000", self.max_detections
        )
        require(0 <= self.voting <= 1, "decode.voting", "between 0 and 1", self.voting)
        require(1 <= len(self.zooms) <= 8, "decode.zooms", "between one and eight numbers", self.zooms)
        require(
            min(self.zooms) >= 0.25 and max(self.zooms) <= 4,
            "decode.zooms",
            "numbers between 0.25 and 4",
            self.zooms,
        )


def _check_heads(heads: tuple[HeadConfig, ...]) -> None:
    require(len(heads) <= _MOST_HEADS, "model.heads", f"at most {_MOST_HEADS}", len(heads))
    names = [head.name for head in heads]
    for name in names:
        require(names.count(name) == 1, "model.heads", "of different names", f"{name!r} twice")
    kinds = [head.kind for head in heads]
    require(kinds.count("classification") == 1, "model.heads", "with one classification head", names)
    require("box" in kinds, "model.heads", "with a box head", names)
    inputs = {head.name: head.input for head in heads}
    for head in heads:
        key = f"model.heads.{head.name}.input"
        require(head.input in (TRUNK, *names), key, f"{TRUNK} or a head ({', '.join(names)})", repr(head.input))
        _check_circle(head.name, inputs)
    for position, head in enumerate(heads):
        if head.input != TRUNK and names.index(head.input) > position:
            raise ConfigError(f"model.heads: {head.name!r} reads {head.input!r} and must stand after it")


def _check_circle(start: str, inputs: dict[str, str]) -> None:
    path = [start]
    while (following := inputs.get(path[-1], TRUNK)) != TRUNK:
        path.append(following)
        if following in path[:-1]:
            raise ConfigError(
                f"model.heads: {' reads '.join(path)}: heads must not feed one another in a circle; "
                f"let one of them read the {TRUNK}"
            )
