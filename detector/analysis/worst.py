"""Images with most errors."""

from dataclasses import dataclass

import numpy as np

from detector.analysis.matching import Matches
from detector.analysis.operating import Verdicts
from detector.evaluate.engines import Objects


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTally:
    """What went right and wrong in one image."""

    image_row: int
    right: int
    wrong: int
    missed: int

    @property
    def errors(self) -> int:
        return self.wrong + self.missed


def tallies(matches: Matches, verdicts: Verdicts, truth: Objects) -> tuple[ImageTally, ...]:
    """One for each image, in order."""
    columns = (
        matches.image_rows[verdicts.is_right],
        matches.image_rows[verdicts.is_wrong],
        truth.image_rows[verdicts.missed],
    )
    counts = [np.bincount(rows, minlength=matches.num_images).tolist() for rows in columns]
    return tuple(
        ImageTally(image_row=row, right=right, wrong=wrong, missed=missed)
        for row, (right, wrong, missed) in enumerate(zip(*counts, strict=True))
    )


def worst(all_tallies: tuple[ImageTally, ...], count: int) -> tuple[ImageTally, ...]:
    """Most errors first; of equally many, the image with fewer right ones."""
    ordered = sorted(all_tallies, key=lambda one: (-one.errors, one.right, one.image_row))
    return tuple(one for one in ordered[:count] if one.errors)
