"""Which class is taken for which, background among them."""

import numpy as np
from numpy.typing import NDArray

from detector.analysis.error_types import FOREGROUND
from detector.analysis.matching import NONE, Matches
from detector.analysis.operating import Verdicts
from detector.analysis.overlaps import Overlaps
from detector.evaluate.engines import Objects


def matrix(matches: Matches, overlaps: Overlaps, verdicts: Verdicts, truth: Objects) -> NDArray[np.int64]:
    """[class of the object, class of the detection], the last row and column standing for background.

    A detection that meets no object of its class is held against the object of another class it overlaps most, where
    that object was missed and no better detection is held against it.
    """
    nothing = matches.num_classes
    made = np.zeros((nothing + 1, nothing + 1), np.int64)
    right = verdicts.is_right
    np.add.at(made, (matches.class_rows[right], matches.class_rows[right]), 1)
    is_missed = np.zeros(len(truth.class_rows), np.bool_)
    is_missed[verdicts.missed] = True
    wrong = np.flatnonzero(verdicts.is_wrong)
    wrong = wrong[np.argsort(-matches.scores[wrong], kind="stable")]
    meant = np.where(overlaps.other_iou >= FOREGROUND, overlaps.other_object, NONE)[wrong]
    meant[meant != NONE] = np.where(is_missed[meant[meant != NONE]], meant[meant != NONE], NONE)
    first = np.zeros(len(wrong), np.bool_)
    first[np.unique(meant, return_index=True)[1]] = True
    is_swap = first & (meant != NONE)
    np.add.at(made, (truth.class_rows[meant[is_swap]], matches.class_rows[wrong[is_swap]]), 1)
    np.add.at(made[nothing], matches.class_rows[wrong[~is_swap]], 1)
    is_missed[meant[is_swap]] = False
    np.add.at(made[:, nothing], truth.class_rows[is_missed], 1)
    return made
