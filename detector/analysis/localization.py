"""Where boxes lie beside their objects: signed error of centre and size, and the AP that mending it would give."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.analysis.matching import Matches
from detector.evaluate import engines, sizes
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results

_MOST_CLASSES: Final = 40  # each takes a scoring of its own
_FEWEST: Final = 20  # pairs, to speak of a bias
_CLEAR: Final = 2.5  # standard errors
_WORTH_SAYING: Final = 0.005  # of the side of a box
_SPREAD_OF_MEDIAN: Final = 1.2533  # standard error of a median, in those of a mean
_TO_SIGMA: Final = 1.349  # quartile distance of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """A signed error, as the median over pairs."""

    relative: float  # part of the object's side
    pixels: float
    spread: float  # relative, as a standard deviation
    standard_error: float  # of `relative`

    @property
    def is_clear(self) -> bool:
        """Whether it is neither chance nor too little to matter."""
        return abs(self.relative) > max(_WORTH_SAYING, _CLEAR * self.standard_error)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationError:
    """Of the detections that meet an object at IoU 0.5."""

    group: str  # a class, a size, or "all"
    num_pairs: int
    right: Bias  # centre lies right of the object's
    down: Bias
    wide: Bias  # box is wider than the object
    tall: Bias
    ap_gain: float  # were the four medians zero
    ap75_gain: float

    @property
    def scatter(self) -> float:
        """What no bias explains: mean standard deviation of the four errors, as part of the object's side."""
        return sum(one.spread for one in (self.right, self.down, self.wide, self.tall)) / 4

    @property
    def speaks(self) -> bool:
        """Whether there are pairs enough."""
        return self.num_pairs >= _FEWEST

    def sentence(self) -> str | None:
        """What is wrong, for people; None where nothing is clear."""
        sides = [_words(self.wide, "% wider", "% narrower"), _words(self.tall, "% taller", "% shorter")]
        places = [
            _words(self.right, "% of a side too far right", "% of a side too far left"),
            _words(self.down, "% of a side too far down", "% of a side too far up"),
        ]
        size = " and ".join(word for word in sides if word)
        said = [f"{size} than their objects"] if size else []
        said += [word for word in places if word]
        if not self.speaks or not said:
            return None
        gain = max(self.ap75_gain, self.ap_gain)
        # Plus zero, for minus zero is no number to read.
        points = [round(100 * value, 1) + 0.0 for value in (self.ap75_gain, self.ap_gain)]
        cost = f"{points[0]:+.1f} AP75, {points[1]:+.1f} AP if fixed" if gain > 0 else "costs no AP"
        return f"boxes {', '.join(said)}: {cost}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Matched boxes, as parts of the object's sides."""

    errors: NDArray[np.float64]  # [n, 4]: right, down, and logarithms of the ratios of width and height
    pixels: NDArray[np.float64]  # [n, 4]


def measure(matches: Matches, truth: Objects, found: Results, names: tuple[str, ...]) -> tuple[LocalizationError, ...]:
    """Of all objects, of each size, and of each class, or the most frequent of very many; `found` by row."""
    place = np.flatnonzero(matches.is_right[0])
    met = matches.objects[0, place]
    usable = (found.boxes_xywh[matches.rows[place], 2:] > 0).all(axis=1) & (truth.boxes_xywh[met, 2:] > 0).all(axis=1)
    place, met = place[usable], met[usable]
    rows = matches.rows[place]
    pairs = _pairs(found.boxes_xywh[rows], truth.boxes_xywh[met])
    areas = truth.areas[met]
    found_areas: NDArray[np.float64] = found.boxes_xywh[:, 2:].prod(axis=1)
    classes = truth.class_rows[met]
    groups = [("all", np.ones(len(met), np.bool_), np.ones(len(found), np.bool_))]
    groups += [
        (name, sizes.within(areas, k), sizes.within(found_areas, k)) for k, name in enumerate(sizes.NAMES) if k > 0
    ]
    frequent = np.argsort(-np.bincount(classes, minlength=len(names)), kind="stable")[:_MOST_CLASSES].tolist()
    groups += [(names[k], classes == k, found.category_ids == k) for k in sorted(frequent)]
    before = engines.curves("hotcoco", truth, found).twelve()
    return tuple(
        _of_group(name, _Pairs(errors=pairs.errors[mine], pixels=pairs.pixels[mine]), theirs, truth, found, before)
        for name, mine, theirs in groups
        if mine.any()
    )


def corrected(boxes_xywh: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes with a bias (right, down, log width, log height) taken out."""
    sides = boxes_xywh[:, 2:] / np.exp(bias[2:])
    centres = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2 - bias[:2] * sides
    return np.concatenate([centres - sides / 2, sides], axis=1)


def _of_group(
    name: str,
    pairs: _Pairs,
    is_theirs: NDArray[np.bool_],
    truth: Objects,
    found: Results,
    before: tuple[float, ...],
) -> LocalizationError:
    medians = np.median(pairs.errors, axis=0)
    boxes = found.boxes_xywh.copy()
    boxes[is_theirs] = corrected(boxes[is_theirs], medians)
    mended = Results(image_ids=found.image_ids, category_ids=found.category_ids, boxes_xywh=boxes, scores=found.scores)
    after = engines.curves("hotcoco", truth, mended).twelve()
    right, down, wide, tall = (_bias(pairs, k) for k in range(4))
    return LocalizationError(
        group=name,
        num_pairs=len(pairs.errors),
        right=right,
        down=down,
        wide=wide,
        tall=tall,
        ap_gain=after[0] - before[0],
        ap75_gain=after[2] - before[2],
    )


def _pairs(found: NDArray[np.float64], real: NDArray[np.float64]) -> _Pairs:
    shift = (found[:, :2] + found[:, 2:] / 2) - (real[:, :2] + real[:, 2:] / 2)
    growth = found[:, 2:] - real[:, 2:]
    errors = np.concatenate([shift / real[:, 2:], np.log(found[:, 2:] / real[:, 2:])], axis=1)
    return _Pairs(errors=errors, pixels=np.concatenate([shift, growth], axis=1))


def _bias(pairs: _Pairs, k: int) -> Bias:
    low, middle, high = np.percentile(pairs.errors[:, k], (25, 50, 75)).tolist()
    spread = (high - low) / _TO_SIGMA
    return Bias(
        relative=float(np.expm1(middle)) if k >= 2 else middle,
        pixels=float(np.median(pairs.pixels[:, k])),
        spread=spread,
        standard_error=_SPREAD_OF_MEDIAN * spread / len(pairs.errors) ** 0.5,
    )


def _words(bias: Bias, positive: str, negative: str) -> str:
    if not bias.is_clear:
        return ""
    return f"{100 * abs(bias.relative):.1f} {positive if bias.relative > 0 else negative}"
