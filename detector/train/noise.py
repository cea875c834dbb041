"""Whether one scoring beats another by more than chance.

Other images of the same kind would give other scores. Both scorings are of the same images, and of the same resamplings
of these, so that what one set of images makes easy or hard for both cancels out (a paired bootstrap).
"""

import statistics
from dataclasses import dataclass

from detector.train.state import Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What a scoring has over an earlier one."""

    value: float
    """Of AP."""
    noise: float
    """Standard error of `value`; 0 where the scorings say nothing of resamplings."""

    @property
    def is_clear(self) -> bool:
        """More than one standard error: five times in six the gain is more than chance (one-sided, 84 %).

        The error is taken for normal instead of counting resamplings in which the later is better: of a few dozen
        resamplings the spread is known well, the share beyond the tail is not.
        """
        return self.value > self.noise


def gain(now: Quality, before: Quality) -> Gain:
    pairs = zip(now.resampled, before.resampled, strict=True) if len(now.resampled) == len(before.resampled) else ()
    moved = [a - b for a, b in pairs if min(a, b) >= 0]  # -1 is not defined
    return Gain(value=now.ap - before.ap, noise=statistics.stdev(moved) if len(moved) > 1 else 0.0)
