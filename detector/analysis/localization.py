"""Where boxes lie beside their objects: signed error of centre and size, and the AP that mending it would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.analysis.matching import Matches
from detector.evaluate import engines, sizes
from detector.evaluate.engines import Objects
from detector.evaluate.results import Results

ALL: Final = "all"
FEWEST: Final = 20  # pairs, to speak of a bias
_CHANCE: Final = 0.05  # that something is said of any group where nothing is wrong
_INTERVAL: Final = 1.96  # standard errors
_WORTH_MENDING: Final = 0.001  # AP
_SAME_PIXELS: Final = 0.5
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
    surely: tuple[float, float]  # where `relative` lies, at a confidence that leaves none of all intervals to chance

    @property
    def is_clear(self) -> bool:
        """Whether it is neither chance nor too little to matter."""
        return self.is_beyond(0.0)

    def is_beyond(self, other: float) -> bool:
        """Whether it clearly differs from another one."""
        low, high = self.surely
        return abs(self.relative - other) > _WORTH_SAYING and not low <= other <= high

    @property
    def sure_to(self) -> float:
        """Half of its 95 % interval."""
        return _INTERVAL * self.standard_error


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationError:
    """Of the detections that meet an object at IoU 0.5."""

    group: str  # a class, a size, or ALL
    num_pairs: int
    right: Bias  # centre lies right of the object's
    down: Bias
    wide: Bias  # box is wider than the object
    tall: Bias
    ap_gain: float  # were the four medians zero
    ap75_gain: float  # of one IoU threshold alone, and so moved by chance far more

    @property
    def scatter(self) -> float:
        """What no bias explains: mean standard deviation of the four errors, as part of the object's side."""
        return sum(one.spread for one in (self.right, self.down, self.wide, self.tall)) / 4

    @property
    def speaks(self) -> bool:
        """Whether there are pairs enough."""
        return self.num_pairs >= FEWEST

    @property
    def is_worth_mending(self) -> bool:
        return self.sentence() is not None and self.ap_gain >= _WORTH_MENDING

    def sentence(self) -> str | None:
        """What is wrong, how sure that is and what it costs, for people; None where nothing is clear."""
        sides = [_words(self.wide, "% wider", "% narrower"), _words(self.tall, "% taller", "% shorter")]
        places = [
            _words(self.right, "% of a side too far right", "% of a side too far left", in_pixels=True),
            _words(self.down, "% of a side too far down", "% of a side too far up", in_pixels=True),
        ]
        size = " and ".join(word for word in sides if word)
        said = [f"{size} than their objects"] if size else []
        said += [word for word in places if word]
        if not self.speaks or not said:
            return None
        is_worth_it = self.ap_gain >= _WORTH_MENDING
        gain = f"gives {100 * self.ap_gain:+.1f} AP" if is_worth_it else "gives no AP, so leave it"
        return f"boxes {', '.join(said)} ({self.num_pairs} pairs); taking it out {gain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Matched boxes, as parts of the object's sides."""

    errors: NDArray[np.float64]  # [n, 4]: right, down, and logarithms of the ratios of width and height
    pixels: NDArray[np.float64]  # [n, 4]

    def of(self, chosen: NDArray[np.bool_]) -> "_Pairs":
        return _Pairs(errors=self.errors[chosen], pixels=self.pixels[chosen])


def told(errors: Sequence[LocalizationError]) -> tuple[str, ...]:
    """What was found, for people: of all boxes together, of groups that differ from them, and what to do."""
    if not errors or not errors[0].speaks:
        count = errors[0].num_pairs if errors else 0
        return (f"{count} boxes meet an object; fewer than {FEWEST} say nothing of bias",)
    biased = biased_groups(errors)
    lines = [] if errors[0] in biased else [f"{ALL}: {_nothing_clear(errors[0])}"]
    lines += [f"{one.group}: {one.sentence()}" for one in biased]
    if any(one.is_worth_mending for one in biased):
        lines.append(
            "what to do: see whether labels here and in training are drawn alike, as tight and in the same place; "
            "mend them if not, else train longer or on larger images"
        )
    return tuple(lines)


def biased_groups(errors: Sequence[LocalizationError]) -> tuple[LocalizationError, ...]:
    """All boxes together, where they are clearly off, and the groups whose bias is another, the costliest first.

    Groups whose mending gives nothing are left out: where boxes scatter, those of large objects are narrower and those
    of small ones wider, as with all that is guessed.
    """
    others = [one for one in errors[1:] if one.is_worth_mending and _differs(one, errors[0])]
    others.sort(key=lambda one: -one.ap_gain)
    return (*(one for one in errors[:1] if one.sentence()), *others)


def _differs(one: LocalizationError, every: LocalizationError) -> bool:
    """Whether something clear of a group is not what all boxes have."""
    pairs = [(one.wide, every.wide), (one.tall, every.tall)]
    # A shift of as many pixels is another part of the side of a small object, and yet the same.
    shifts = ((one.right, every.right), (one.down, every.down))
    pairs += [(mine, alls) for mine, alls in shifts if abs(mine.pixels - alls.pixels) > _SAME_PIXELS]
    return any(mine.is_clear and (not alls.is_clear or mine.is_beyond(alls.relative)) for mine, alls in pairs)


def _nothing_clear(one: LocalizationError) -> str:
    parts = (("width", one.wide), ("height", one.tall), ("right", one.right), ("down", one.down))
    said = ", ".join(f"{name} {100 * bias.relative:+.1f} ± {100 * bias.sure_to:.1f} %" for name, bias in parts)
    return f"no clear bias ({said} of an object's side; {one.num_pairs} pairs)"


def measure(matches: Matches, truth: Objects, found: Results, names: tuple[str, ...]) -> tuple[LocalizationError, ...]:
    """Of all objects, of each size, and of each class; `found` by row."""
    place = np.flatnonzero(matches.is_right[0])
    met = matches.objects[0, place]
    usable = (found.boxes_xywh[matches.rows[place], 2:] > 0).all(axis=1) & (truth.boxes_xywh[met, 2:] > 0).all(axis=1)
    place, met = place[usable], met[usable]
    rows = matches.rows[place]
    pairs = _pairs(found.boxes_xywh[rows], truth.boxes_xywh[met])
    areas = truth.areas[met]
    found_areas: NDArray[np.float64] = found.boxes_xywh[:, 2:].prod(axis=1)
    classes = truth.class_rows[met]
    groups = [(ALL, np.ones(len(met), np.bool_), np.ones(len(found), np.bool_))]
    groups += [
        (name, sizes.within(areas, k), sizes.within(found_areas, k)) for k, name in enumerate(sizes.NAMES) if k > 0
    ]
    groups = [group for group in groups if group[1].any()]
    seen: list[int] = np.unique(classes).tolist()
    spoken = sum(int(mine.sum()) >= FEWEST for _, mine, _ in groups) + int((np.bincount(classes) >= FEWEST).sum())
    needed = NormalDist().inv_cdf(1 - _CHANCE / (2 * 4 * max(1, spoken)))
    before = _aps(truth, found)
    made: list[LocalizationError] = []
    for name, mine, theirs in groups:
        medians = np.median(pairs.errors[mine], axis=0)
        after = _aps(truth, _mended(found, theirs, np.broadcast_to(medians, (int(theirs.sum()), 4))))
        gains = np.array([_mean_gain(before[k], after[k]) for k in range(2)])
        made.append(_of_group(name, pairs.of(mine), gains, needed))
    # A class changes its own AP alone, so that one scoring tells of all.
    of_classes = np.zeros((truth.num_classes, 4))
    for k in seen:
        of_classes[k] = np.median(pairs.errors[classes == k], axis=0)
    is_seen = np.isin(found.category_ids, seen)
    after = _aps(truth, _mended(found, is_seen, of_classes[found.category_ids[is_seen]])) if seen else before
    gains = (after - before) / max(1, int((before[0] > -1).sum()))
    made += [_of_group(names[k], pairs.of(classes == k), gains[:, k], needed) for k in seen]
    return tuple(made)


def corrected(boxes_xywh: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """The boxes with a bias (right, down, log width, log height), one for all or one each, taken out."""
    sides = boxes_xywh[:, 2:] / np.exp(bias[..., 2:])
    centres = boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2 - bias[..., :2] * sides
    return np.concatenate([centres - sides / 2, sides], axis=1)


def _mended(found: Results, chosen: NDArray[np.bool_], bias: NDArray[np.float64]) -> Results:
    boxes = found.boxes_xywh.copy()
    boxes[chosen] = corrected(boxes[chosen], bias)
    return Results(image_ids=found.image_ids, category_ids=found.category_ids, boxes_xywh=boxes, scores=found.scores)


def _aps(truth: Objects, found: Results) -> NDArray[np.float64]:
    """AP and AP75 of each class, [2, class]; -1 where there is no object."""
    precision = engines.curves("hotcoco", truth, found).precision[..., 0, 2]
    return np.stack([precision.mean(axis=(0, 1)), precision[5].mean(axis=0)])


def _mean_gain(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    known = before > -1
    return float((after - before)[known].mean()) if known.any() else 0.0


def _of_group(name: str, pairs: _Pairs, gains: NDArray[np.float64], needed: float) -> LocalizationError:
    right, down, wide, tall = (_bias(pairs, k, needed) for k in range(4))
    return LocalizationError(
        group=name,
        num_pairs=len(pairs.errors),
        right=right,
        down=down,
        wide=wide,
        tall=tall,
        ap_gain=float(gains[0]),
        ap75_gain=float(gains[1]),
    )


def _pairs(found: NDArray[np.float64], real: NDArray[np.float64]) -> _Pairs:
    shift = (found[:, :2] + found[:, 2:] / 2) - (real[:, :2] + real[:, 2:] / 2)
    growth = found[:, 2:] - real[:, 2:]
    errors = np.concatenate([shift / real[:, 2:], np.log(found[:, 2:] / real[:, 2:])], axis=1)
    return _Pairs(errors=errors, pixels=np.concatenate([shift, growth], axis=1))


def _bias(pairs: _Pairs, k: int, needed: float) -> Bias:
    low, middle, high = np.percentile(pairs.errors[:, k], (25, 50, 75)).tolist()
    spread = (high - low) / _TO_SIGMA
    surely = _interval_of_median(pairs.errors[:, k], needed)
    return Bias(
        relative=float(np.expm1(middle)) if k >= 2 else middle,
        pixels=float(np.median(pairs.pixels[:, k])),
        spread=spread,
        standard_error=_SPREAD_OF_MEDIAN * spread / len(pairs.errors) ** 0.5,
        surely=(float(np.expm1(surely[0])), float(np.expm1(surely[1]))) if k >= 2 else surely,
    )


def _interval_of_median(values: NDArray[np.float64], needed: float) -> tuple[float, float]:
    """By ranks: of few values the spread is too uncertain for a standard error to hold this far out."""
    count = len(values)
    rank = int(count / 2 - needed * count**0.5 / 2)
    if rank < 1:
        return -np.inf, np.inf
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[count - rank])


def _words(bias: Bias, positive: str, negative: str, *, in_pixels: bool = False) -> str:
    if not bias.is_clear:
        return ""
    size = f"{100 * abs(bias.relative):.1f} ± {100 * bias.sure_to:.1f}"
    pixels = f" (about {abs(bias.pixels):.1f} px)" if in_pixels else ""
    return f"{size} {positive if bias.relative > 0 else negative}{pixels}"
