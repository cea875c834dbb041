"""The file beside the best model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detector.evaluate.coco import Scores
from detector.run import best_scores
from detector.run.best_scores import BestScores
from detector.train.run_folder import RunFolder
from tests.unit.run.test_confirming import SCORES

NOTED = BestScores(scores=SCORES, scored_on={"device": "cpu", "processes": 1})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(path=tmp_path)


@pytest.mark.parametrize("noted", [NOTED, replace(NOTED, confirmed="0123")])
def test_what_is_written_is_read(noted: BestScores, folder: RunFolder) -> None:
    best_scores.write(folder, noted)
    assert best_scores.read(folder) == noted


def test_numbers_keep_their_last_bit(folder: RunFolder) -> None:
    scores: Scores = replace(SCORES, ap=0.1 + 0.2)
    best_scores.write(folder, replace(NOTED, scores=scores))
    read = best_scores.read(folder)
    assert read is not None
    assert read.scores.ap == 0.1 + 0.2


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"scored_on": {}}'])
def test_what_cannot_be_read_is_none(content: str | None, folder: RunFolder) -> None:
    if content is not None:
        folder.best_scores.write_text(content)
    assert best_scores.read(folder) is None


def test_without_its_circumstances_it_cannot_be_read(folder: RunFolder) -> None:
    best_scores.write(folder, NOTED)
    tree = json.loads(folder.best_scores.read_text())
    del tree[best_scores.SCORED_ON]
    folder.best_scores.write_text(json.dumps(tree))
    assert best_scores.read(folder) is None
