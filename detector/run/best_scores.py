"""What is noted of a run's best model: its scores, what they depend on, and whether its file was seen to give them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from detector import files
from detector.evaluate import text
from detector.evaluate.coco import Scores
from detector.train.run_folder import RunFolder

SCORED_ON: Final = "scored_on"
CONFIRMED: Final = "confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BestScores:
    """The content of best-scores.json."""

    scores: Scores
    scored_on: Mapping[str, Any]
    """What their last bits depend on, besides model and data."""
    confirmed: str | None = None
    """Digest of the model file that was seen to give them."""


def read(folder: RunFolder) -> BestScores | None:
    """None where the file is not there or is damaged: a table that is lost is no reason to fail."""
    try:
        tree = json.loads(folder.best_scores.read_text(encoding="utf-8"))
        return BestScores(scores=text.of_json(tree), scored_on=tree[SCORED_ON], confirmed=tree.get(CONFIRMED))
    except (OSError, ValueError, KeyError):
        return None


def write(folder: RunFolder, best: BestScores) -> None:
    tree = {**text.as_json(best.scores), SCORED_ON: dict(best.scored_on)}
    if best.confirmed is not None:
        tree[CONFIRMED] = best.confirmed
    files.write_text(folder.best_scores, json.dumps(tree, indent=2, allow_nan=False) + "\n")
