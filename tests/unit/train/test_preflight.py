"""Phases of a run, the fullest batch, and the estimate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.data import coco
from detector.train import preflight, schedule, stages
from detector.train.schedule import Plan
from tests.unit.data import make as data
from tests.unit.train import make

HW = make.HW
STAGES = [{"name": name, "share": share} for name, share in (("a", 0.3), ("b", 0.3), ("c", 0.4))]


def phases(changes: dict[str, Any]) -> tuple[preflight.Phase, ...]:
    return preflight.phases(make.config(changes), HW)


def test_a_run_with_cut_outs_has_two_phases() -> None:
    cut_outs, whole = phases({"data.crops.share": 0.7})
    assert (cut_outs.share, cut_outs.shape.size, cut_outs.shape.window_hw) == (pytest.approx(0.7), 8, (32, 48))
    assert (whole.share, whole.shape.size, whole.shape.window_hw) == (pytest.approx(0.3), 4, HW)
    assert cut_outs.stage == whole.stage == ""


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_a_change_there_is_one_phase(share: float) -> None:
    (phase,) = phases({"data.crops.share": share, "augment.clean_share": 0})
    assert phase.share == 1


def test_the_clean_part_is_a_phase_and_ends_the_cut_outs() -> None:
    cut_outs, clean = phases({"data.crops.share": 0.7, "augment.clean_share": 0.4})
    assert (cut_outs.share, cut_outs.shape.is_clean) == (pytest.approx(0.6), False)
    assert (clean.share, clean.shape.is_clean, clean.shape.window_hw) == (pytest.approx(0.4), True, HW)


def test_stages_and_an_assignment_that_comes_later_have_phases_of_their_own() -> None:
    later = {"assign.kind": "task_aligned", "assign.aligned_from": 0.1}
    found = phases({"data.crops.share": 0.6, "augment.clean_share": 0, "stages": STAGES} | later)
    assert [round(phase.share, 6) for phase in found] == [0.1, 0.2, 0.3, 0.4]  # 0.3 + 0.3 is not quite 0.6
    assert [phase.stage for phase in found] == ["a", "a", "b", "c"]


@given(st.floats(0, 1), st.floats(0, 1), st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_phases_cover_the_run_and_each_step_of_one_is_alike(crops: float, clean: float, shares: list[float]) -> None:
    named = [{"name": str(k), "share": share / sum(shares)} for k, share in enumerate(shares)]
    config = make.config(
        {"data.crops.share": crops, "augment.mixup": 0.1, "augment.clean_share": clean, "stages": named}
    )
    found = preflight.phases(config, HW)
    assert sum(phase.share for phase in found) == pytest.approx(1, abs=1e-4)
    for phase in found:
        for way in (-0.49, 0.49):
            near = phase.progress + way * phase.share
            assert schedule.batch_shape(near, config, HW) == phase.shape
            assert stages.at(config.stages, near).stage.name == phase.stage


def test_the_fullest_batch_has_the_objects_of_the_fullest_image_in_each(tmp_path: Path) -> None:
    annotations = [data.annotation(k, image_id=2, bbox=[2 * k, 3, 10, 20], iscrowd=int(k == 3)) for k in (1, 2, 3)]
    images = [data.image(), data.image(2, "b.png", (30, 50))]
    data.picture(tmp_path / "images" / "b.png", (30, 50))
    columns = coco.read(*data.write(tmp_path, data.tree(images=images, annotations=annotations)))
    filled = preflight.fill(make.batch(2), columns, 1)
    targets = filled.targets
    scale = min(HW[0] / 30, HW[1] / 50)
    for row in range(2):
        np.testing.assert_allclose(targets.boxes[row].numpy(), scale * columns.boxes, rtol=1e-6)
    assert targets.is_object.tolist() == [[True, True, False]] * 2
    assert targets.is_crowd is not None
    assert torch.equal(targets.is_crowd, ~targets.is_object)
    assert targets.boxes[..., 2].max() <= HW[1]
    assert torch.equal(filled.images, make.batch(2).images)
    mixed = preflight.fill(make.batch(2), columns, 1, 4).targets
    assert mixed.is_crowd is not None
    for field in ("boxes", "labels", "is_object", "is_crowd"):
        assert torch.equal(getattr(mixed, field), torch.cat([getattr(targets, field)] * 4, dim=1))


def test_the_time_of_a_run_by_steps() -> None:
    plan = Plan(steps=100, seconds=None, evaluations=4)
    found = preflight.estimate(plan, [0.75, 0.25], [1.0, 3.0], 5.0)
    assert found == preflight.Estimate(seconds=75 + 75 + 20 + 5, steps=100, evaluations=4)


def test_the_steps_of_a_run_by_time() -> None:
    """A share of the time, not of the steps, belongs to each phase."""
    plan = Plan(steps=None, seconds=120.0, evaluations=4)
    found = preflight.estimate(plan, [0.75, 0.25], [1.0, 3.0], 5.0)
    assert found == preflight.Estimate(seconds=120.0 + 5, steps=75 + 8, evaluations=4)
    assert preflight.estimate(plan, [1.0], [1.0], 50.0).steps == 0


def test_only_what_was_quick_is_timed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(preflight.time, "perf_counter", lambda: now[0])
    calls: list[float] = []

    def work(*seconds: float) -> float:
        left = list(seconds)
        calls.clear()

        def step() -> None:
            calls.append(left[0])
            now[0] += left.pop(0)

        return preflight.seconds_of(step, torch.device("cpu"))

    assert work(1.5, 0.25) == 0.25
    assert work(30.0, 0.25) == 30.0
    assert calls == [30.0]
