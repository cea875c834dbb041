import numpy as np
import pytest

from detector.analysis import error_types
from detector.analysis.error_types import KINDS
from detector.evaluate import engines
from tests.unit.analysis import make
from tests.unit.evaluate import generate
from tests.unit.evaluate.test_engines import results_of, truth_of

TRUTH = make.objects(
    [(0, 0, [0, 0, 40, 40]), (0, 1, [100, 0, 40, 40]), (0, 0, [200, 0, 40, 40]), (0, 1, [300, 0, 40, 40])]
)
RIGHT = (0, 0, [0, 0, 40, 40], 0.9)
ONE_OF_EACH = {
    "classification": (0, 0, [100, 0, 40, 40], 0.8),
    "localization": (0, 0, [220, 0, 40, 40], 0.8),
    "both": (0, 0, [325, 0, 40, 40], 0.8),
    "duplicate": (0, 0, [0, 0, 40, 41], 0.8),
    "background": (0, 0, [0, 200, 40, 40], 0.8),
}


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_each_kind_is_told(kind: str) -> None:
    matches, overlaps = make.met(TRUTH, make.found([RIGHT, ONE_OF_EACH[kind]]))
    names = [KINDS[k] if k >= 0 else "right" for k in error_types.kinds(matches, overlaps)]
    assert sorted(names) == sorted(["right", kind])


def test_costs_of_one_mistake() -> None:
    # One class, two objects; a sure false alarm stands before the only find.
    truth = make.objects([(0, 0, [0, 0, 40, 40]), (0, 0, [200, 0, 40, 40])])
    found = make.found([(0, 0, [0, 200, 40, 40], 0.95), RIGHT])
    costs = {one.kind: one for one in error_types.costs(*make.met(truth, found), truth)}
    half = 51 / 101  # recall up to 0.5
    assert costs["background"].ap50_lost == pytest.approx(half - half / 2, abs=1e-12)
    assert costs["missed"].ap50_lost == pytest.approx(0.5 - half / 2, abs=1e-12)
    assert (costs["background"].count, costs["missed"].count) == (1, 1)
    assert all(costs[kind].count == 0 == costs[kind].ap50_lost for kind in ("classification", "duplicate", "both"))


def test_a_mended_class_fills_the_missing_find() -> None:
    truth = make.objects([(0, 0, [0, 0, 40, 40]), (0, 1, [100, 0, 40, 40])])
    found = make.found([RIGHT, (0, 0, [100, 0, 40, 40], 0.95)])
    costs = {one.kind: one for one in error_types.costs(*make.met(truth, found), truth)}
    # Class 0 had precision 1/2, class 1 nothing; both become perfect.
    assert costs["classification"].ap50_lost == pytest.approx(1 - 0.25, abs=1e-12)
    assert costs["missed"].count == 0


def test_a_mended_box_does_not_find_an_object_twice() -> None:
    truth = make.objects([(0, 0, [0, 0, 40, 40]), (0, 0, [200, 0, 40, 40])])
    found = make.found([RIGHT, (0, 0, [220, 0, 40, 40], 0.5), (0, 0, [180, 0, 40, 40], 0.4)])
    costs = {one.kind: one for one in error_types.costs(*make.met(truth, found), truth)}
    assert costs["localization"].count == 2
    assert costs["localization"].ap50_lost == pytest.approx(1 - 51 / 101, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_no_mended_error_lowers_ap_and_the_base_is_ap50(seed: int) -> None:
    case = generate.case(seed)
    truth, found = truth_of(case), results_of(case, by_row=True)
    matches, overlaps = make.met(truth, found)
    if truth.is_crowd.all():
        return
    costs = error_types.costs(matches, overlaps, truth)
    ap50 = engines.curves("hotcoco", truth, found).twelve()[1]
    assert all(one.ap50_lost >= -1e-12 for one in costs if one.kind != "missed")
    assert all(ap50 + one.ap50_lost <= 1 + 1e-12 for one in costs)
    assert sum(one.count for one in costs[:-1]) == int((~matches.is_right[0] & ~matches.is_ignored[0]).sum())


def test_perfect_detections_cost_nothing() -> None:
    truth = make.scene(0, images=5)
    rows = zip(truth.image_rows.tolist(), truth.class_rows.tolist(), truth.boxes_xywh.tolist(), strict=True)
    costs = error_types.costs(*make.met(truth, make.found([(*row, 0.5) for row in rows])), truth)
    assert {one.count for one in costs} == {0}
    assert np.array([one.ap50_lost for one in costs]) == pytest.approx(0, abs=1e-12)
