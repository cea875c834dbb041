"""Settings of what the network is shown."""

import math
from dataclasses import dataclass
from typing import Literal

from detector.config.rules import require


@dataclass(frozen=True, slots=True, kw_only=True)
class CropConfig:
    """A first part of training on cut-outs: objects keep their size, and the same time gives more steps."""

    share: float = 0.0
    """Of the run; 0 trains on whole images from the start."""
    size: float = 0.5
    """Sides of the cut-out, relative to the canvas."""
    batch_factor: int = 2
    """Cut-outs in a batch for each image that a batch has later."""

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "data.crops.share", "between 0 and 1", self.share)
        require(0 < self.size <= 1, "data.crops.size", "above 0 and at most 1", self.size)
        require(1 <= self.batch_factor <= 64, "data.crops.batch_factor", "between 1 and 64", self.batch_factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What the network is shown."""

    image_size: int = 640
    """Longer side of the canvas in pixels; the aspect comes from the training images."""
    batch_size: int = 16
    """Images in a step, of all processes together."""
    workers: int | None = None
    """Loader processes; null chooses for the machine. The batches are the same for any number."""
    cache: Literal["none", "disk"] = "none"
    """`disk` keeps decoded training images, at the largest size that augmentation shows, for later epochs and runs.
    They are then resampled twice, so numbers differ a little."""
    cache_folder: str | None = None
    """Null: `detector/images` in XDG_CACHE_HOME, else in ~/.cache. Best on a fast local disk."""
    cache_gigabytes: float = 20.0
    """Most that the folder holds; what was not used for longest goes first."""
    share: float = 1.0
    """Of the training images that are learned from, drawn by the seed; a smaller part lies in every larger one."""
    crops: CropConfig = CropConfig()

    def __post_init__(self) -> None:
        require(64 <= self.image_size <= 4096, "data.image_size", "between 64 and 4096", self.image_size)
        require(1 <= self.batch_size <= 4096, "data.batch_size", "between 1 and 4096", self.batch_size)
        require(0 < self.share <= 1, "data.share", "above 0 and at most 1", self.share)
        require(self.workers is None or 0 <= self.workers <= 256, "data.workers", "between 0 and 256", self.workers)
        require(self.cache_gigabytes > 0, "data.cache_gigabytes", "above 0", self.cache_gigabytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPasteConfig:
    """Objects of another image, cut out by their boxes and pasted (Dwibedi et al. 2017; Ghiasi et al. 2021)."""

    probability: float = 0.0
    objects: int = 3
    """Most that are pasted into an image; all of them come from one other image."""
    overlap: float = 0.2
    """Most that what is pasted and an object may share of the smaller one's area; else it goes elsewhere."""
    feather: float = 0.1
    """Width of the soft border around the box, relative to its sides; 0 pastes the box alone, with hard borders."""
    even_classes: bool = True
    """Every class as often as each other, so that rare ones come more often than they are found."""

    def __post_init__(self) -> None:
        for name in ("probability", "overlap", "feather"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.copy_paste.{name}", "between 0 and 1", value)
        require(1 <= self.objects <= 64, "augment.copy_paste.objects", "between 1 and 64", self.objects)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes to training images; probabilities in [0, 1], ranges as (low, high)."""

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    quarter_turns: float = 0.0
    """Turns by 90, 180 or 270 degrees, each as likely. Objects keep their size: what of the turned image the
    canvas has no room for is cut off."""
    scale: tuple[float, float] = (0.7, 1.5)
    """Zoom relative to the fitted image; the cut-out is placed at random."""
    aspect: tuple[float, float] = (0.9, 1.1)
    """Width over height, relative."""
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    min_visibility: float = 0.3
    """An object of which a cut leaves less than this share of its area is no longer an object."""
    mosaic: float = 0.0
    """Four images around a random point of the canvas (Bochkovskiy et al. 2020, YOLOv4)."""
    mosaic_scale: tuple[float, float] = (0.5, 1.0)
    """Zoom of the four, in place of `scale`."""
    mixup: float = 0.0
    """Two images blended, with the objects of both (Zhang et al. 2019, Bag of freebies)."""
    copy_paste: CopyPasteConfig = CopyPasteConfig()
    clean_share: float = 0.0
    """Last share of the run in which images are shown as they are scored, but for flips, turns and colours: whole and
    alone, without mosaic, mixup and copy-paste (Ge et al. 2021, YOLOX), cut-outs, zoom and aspect. Where a zoom cuts, a
    border has every object; at the borders that images really have, people leave out many."""

    @property
    def mixes(self) -> bool:
        """Whether a training image may show parts of others."""
        return max(self.mosaic, self.mixup, self.copy_paste.probability) > 0

    @property
    def clean_from(self) -> float:
        """Progress of the run from which on images are shown whole and alone; infinite where that never comes."""
        return 1 - self.clean_share if self.clean_share > 0 else math.inf

    def __post_init__(self) -> None:
        for name in (
            *("horizontal_flip", "vertical_flip", "quarter_turns", "min_visibility"),
            *("mosaic", "mixup", "clean_share"),
        ):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name}", "between 0 and 1", value)
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value < 1, f"augment.{name}", "at least 0 and below 1", value)
        require(0 <= self.hue <= 0.5, "augment.hue", "between 0 and 0.5", self.hue)
        for name in ("scale", "aspect", "mosaic_scale"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"augment.{name}", "two numbers with 0 < low <= high", (low, high))
