"""The data sets of the fuzz tell every known mistake from the truth; else they would be too tame."""

import numpy as np
import pytest

from detector.evaluate import engines
from tests.unit.evaluate import generate, mutants
from tests.unit.evaluate.generate import Case
from tests.unit.evaluate.mutants import Evaluation
from tests.unit.evaluate.test_engines import by_hand, results_of, truth_of

MOST_CASES = 400  # most need a handful
ABOUT_LIMITS = ("limit dropped", "limit per image")


def _of_images(case: Case) -> list[list[object]]:
    return [[d for d in case.found if d["image_id"] == image["id"]] for image in case.tree["images"]]


def differs(a: Evaluation, b: Evaluation) -> bool:
    if a.precision.shape != b.precision.shape:
        return True
    arrays = ((a.precision, b.precision), (a.recall, b.recall), (np.array(a.twelve), np.array(b.twelve)))
    return any(np.abs(x - y).max() > 1e-12 for x, y in arrays)


@pytest.mark.parametrize("part", range(4))
def test_without_a_mistake_it_is_pycocotools_and_the_engine(part: int) -> None:
    for seed in range(part, 60, 4):
        case = generate.case(seed)
        made, wanted = mutants.evaluate(case), by_hand(case)
        fast = engines.curves("hotcoco", truth_of(case), results_of(case, by_row=True))
        for theirs in (wanted.eval["precision"], fast.precision):
            assert np.abs(made.precision - theirs).max() <= 1e-12, seed
        for theirs in (wanted.eval["recall"], fast.recall):
            assert np.abs(made.recall - theirs).max() <= 1e-12, seed
        assert made.twelve == pytest.approx(wanted.stats.tolist(), abs=1e-12)


@pytest.mark.parametrize("mistake", mutants.MISTAKES)
def test_a_mistake_is_seen(mistake: str) -> None:
    for seed in range(MOST_CASES):
        case = generate.case(seed)
        # Few cases have very many detections, and they are slow.
        if (max(map(len, _of_images(case)), default=0) > 100) != (mistake in ABOUT_LIMITS):
            continue
        if differs(mutants.evaluate(case), mutants.evaluate(case, mistake)):
            return
    pytest.fail(f"no data set tells it: {mistake}")
