"""Stages: who owns a moment, how one goes over into the next, and who learns in them."""

import dataclasses
import re
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from detector.config import StageConfig
from detector.errors import ConfigError
from detector.model import inference
from detector.train import stages
from detector.train.learner import Learner
from detector.types import Placement
from tests.unit.train import make

BASE = {"a.x": 1.0, "a.y": 0.5, "b.z": 0.0}
counts = st.lists(st.integers(1, 9), min_size=1, max_size=6)
shares_of = counts.map(lambda parts: [part / sum(parts) for part in parts])


def staged(shares: list[float], **more: Any) -> tuple[StageConfig, ...]:
    return tuple(StageConfig(name=f"s{i}", share=share, **more) for i, share in enumerate(shares))


def two(first: dict[str, float], second: dict[str, float], **more: Any) -> tuple[StageConfig, ...]:
    return (
        StageConfig(name="first", share=0.4, weights=first),
        StageConfig(name="second", share=0.6, weights=second, **more),
    )


# Who owns a moment


@given(shares_of, st.floats(0, 1))
def test_a_moment_belongs_to_the_last_stage_that_has_begun(shares: list[float], progress: float) -> None:
    starts = [sum(shares[:i]) for i in range(len(shares))]
    assume(all(abs(progress - start) > 1e-6 for start in starts[1:]))
    moment = stages.at(staged(shares), progress)
    assert moment.index == sum(start <= progress for start in starts) - 1
    assert moment.stage.name == f"s{moment.index}"
    assert moment.into == pytest.approx(progress - starts[moment.index], abs=1e-12)


@given(shares_of)
def test_a_boundary_belongs_to_the_later_stage(shares: list[float]) -> None:
    for index in range(1, len(shares)):
        moment = stages.at(staged(shares), sum(shares[:index]))
        assert moment.index == index
        assert moment.into == pytest.approx(0, abs=1e-12)


@given(counts, st.integers(7, 12))  # coarser ones miss it by more than a configuration may
def test_shares_that_miss_one_by_a_rounding_lose_no_moment(parts: list[int], digits: int) -> None:
    shares = [max(round(part / sum(parts), digits), 10.0**-digits) for part in parts]
    found = staged([min(1.0, share) for share in shares])
    assert stages.at(found, 0.0).index == 0
    assert stages.at(found, 0.0).into == 0
    assert stages.at(found, 1.0).index == len(shares) - 1


@given(shares_of, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_stages_follow_one_another(shares: list[float], times: list[float]) -> None:
    found = [stages.at(staged(shares), time).index for time in sorted(times)]
    assert found == sorted(found)


def test_without_stages_one_owns_everything() -> None:
    for progress in (0.0, 0.5, 1.0):
        assert stages.at((), progress).stage is stages.EVERYTHING
        assert stages.weights((), progress, BASE) == tuple(BASE.values())
        assert stages.lr_factor((), progress) == 1.0


# How one goes over into the next


def test_weights_of_a_stage_take_the_place_of_the_runs() -> None:
    found = two({"a.x": 0.0, "b.z": 3.0}, {"a.y": 2.0})
    assert stages.weights(found, 0.0, BASE) == (0.0, 0.5, 3.0)
    assert stages.weights(found, 0.39, BASE) == (0.0, 0.5, 3.0)
    assert stages.weights(found, 0.4 + stages.FADE, BASE) == (1.0, 2.0, 0.0)


@given(st.floats(0, 1))
def test_weights_go_over_linearly(t: float) -> None:
    found = two({"a.x": 0.0, "b.z": 3.0}, {"a.y": 2.0})
    expected = [(1 - t) * a + t * b for a, b in zip((0.0, 0.5, 3.0), (1.0, 2.0, 0.0), strict=True)]
    assert stages.weights(found, 0.4 + t * stages.FADE, BASE) == pytest.approx(expected, abs=1e-7)


@given(shares_of, st.data())
def test_no_weight_jumps(shares: list[float], data: st.DataObject) -> None:
    """Short stages too, which are over before a fade would be."""
    weights = data.draw(st.lists(st.floats(0, 10), min_size=len(shares), max_size=len(shares)))
    found = [
        StageConfig(name=f"s{i}", share=share, weights={"a.x": weight})
        for i, (share, weight) in enumerate(zip(shares, weights, strict=True))
    ]
    # No stage is shorter than 1/54, so that no fade is steeper than this.
    steepest = 10 / min(stages.FADE, *shares)
    time = data.draw(st.floats(0, 1 - 1e-4))
    before, after = (stages.weights(found, at, BASE)[0] for at in (time, time + 1e-4))
    assert abs(after - before) <= steepest * 1e-4 + 1e-6


def test_the_rate_comes_up_again_at_the_start_of_a_later_stage() -> None:
    found = two({}, {}, lr_factor=0.5)
    assert stages.lr_factor(found, 0.0) == 1.0  # the first has the warm-up of the run
    assert stages.lr_factor(found, 0.399) == 1.0
    assert stages.lr_factor(found, 0.4) == pytest.approx(0, abs=1e-9)
    assert stages.lr_factor(found, 0.4 + stages.REWARM / 2) == pytest.approx(0.25)
    assert stages.lr_factor(found, 0.4 + stages.REWARM) == pytest.approx(0.5)
    assert stages.lr_factor(found, 1.0) == 0.5


# What cannot be


def check(*entries: dict[str, Any], **changes: Any) -> None:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    config = make.config({"stages": [{"name": "one", "share": 1.0, **entry} for entry in entries], **dotted})
    Learner(make.model(config), config, dtype=torch.float32)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"box.gio": 1}, "stages.one.weights: the run has no loss 'box.gio'; did you mean 'box.giou'?"),
        ({"zzz": 1}, "known: classification.cross_entropy, box.smooth_l1, box.giou"),
        ({"features.hidden": 1}, "the run has no loss 'features.hidden'; it is one against a teacher: name one with"),
        (
            {"classification.cross_entropy": 0, "box.smooth_l1": 0, "box.giou": 0},
            "stages.one.weights: no loss has a weight, so nothing would be learned",
        ),
    ],
)
def test_stages_that_speak_of_losses_that_are_not_there(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check({"weights": weights})


def test_a_loss_against_a_teacher_without_one_names_the_option() -> None:
    with pytest.raises(ConfigError, match="--teacher"):
        check({"weights": {"features.hidden": 1}})


def test_losses_that_weigh_nothing_in_the_run_do_not_count() -> None:
    off = {"classification.cross_entropy": 0, "box.smooth_l1": 0}
    with pytest.raises(ConfigError, match="no loss has a weight"):
        check({"weights": off}, loss__giou_weight=0)
    check({"weights": off | {"box.giou": 1}}, loss__giou_weight=0)


def test_a_run_whose_losses_all_weigh_nothing() -> None:
    with pytest.raises(ConfigError, match="no loss has a weight"):
        check(loss__giou_weight=0, loss__smooth_l1_weight=0, loss__classification_weight=0)


# Who learns


def learner(entries: list[dict[str, Any]], **changes: Any) -> tuple[Learner, Any]:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    config = make.config({"stages": entries, "optim.warmup_steps": 0, "optim.lr": 1e-3, **dotted})
    model = make.model(config)
    return Learner(model, config, dtype=torch.float32), model


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Parts of which a weight or a statistic is another."""
    return {
        ".".join(name.split(".")[: 2 if name.startswith("heads") else 1])
        for name, value in model.state_dict().items()
        if not torch.equal(value, before[name])
    }


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("learn", "parts"),
    [
        (["neck", "heads"], {"neck", "heads.classification", "heads.box"}),
        (["box"], {"heads.box"}),
        (["backbone", "classification"], {"backbone", "heads.classification"}),
        ([], {"backbone", "neck", "heads.classification", "heads.box"}),
    ],
)
@pytest.mark.parametrize("how", ["joint", "sequential"])
def test_only_the_parts_that_learn_change(learn: list[str], parts: set[str], how: str) -> None:
    """Weights, decay and the statistics of the norms."""
    learning, model = learner([{"name": "one", "share": 1.0, "learn": learn}], memory__heads=how)
    before = copied(model)
    for seed in range(2):
        learning.learn(make.batch(seed=seed), 0.1)
    assert changed(model, before) == parts


def test_what_the_configuration_freezes_stays_frozen_in_every_stage() -> None:
    entries = [
        {"name": "heads", "share": 0.5, "learn": ["heads"]},
        {"name": "all", "share": 0.5, "learn": ["backbone", "neck", "heads"]},
    ]
    learning, model = learner(entries, model__frozen_stages=2)
    before = copied(model)
    learning.learn(make.batch(), 0.1)
    learning.learn(make.batch(), 0.6)
    learning.learn(make.batch(), 0.7)
    # Nor have they gradients, which would count in the norm that is clipped.
    assert all(p.grad is None for part in model.backbone.frozen for p in part.parameters())
    state = model.state_dict()
    for part in ("conv1", "bn1", "layer1"):
        for name in (name for name in state if name.startswith(f"backbone.{part}.")):
            assert torch.equal(state[name], before[name]), name
    assert not torch.equal(state["backbone.layer2.0.conv1.weight"], before["backbone.layer2.0.conv1.weight"])
    assert not torch.equal(state["backbone.layer2.0.bn1.running_mean"], before["backbone.layer2.0.bn1.running_mean"])


RESET = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "reset": ["box"]}]


def test_a_head_begins_a_stage_anew() -> None:
    learning, model = learner(RESET)
    for seed in range(3):
        learning.learn(make.batch(seed=seed), 0.1)
    before, average = copied(model), copied(learning.kept)
    learning.learn(make.batch(), 0.5)  # with a rate of nothing yet
    weight = model.state_dict()["heads.box.output.weight"]
    assert (weight - before["heads.box.output.weight"]).std() > 0.005  # new draws of std 0.01
    assert (model.state_dict()["heads.box.output.bias"] == 0).all()
    assert changed(model, before) >= {"heads.box"}
    for name, value in model.state_dict().items():
        if name.startswith("heads.box."):
            torch.testing.assert_close(learning.kept.state_dict()[name], value, msg=name)
    # The average of the others went on.
    other = "heads.classification.output.weight"
    assert not torch.equal(learning.kept.state_dict()[other], average[other])
    assert not torch.equal(learning.kept.state_dict()[other], model.state_dict()[other])


def test_the_optimizer_forgets_the_old_head() -> None:
    learning, model = learner(RESET)
    steps = {True: 1.0, False: 4.0}  # of a head that was reset, and of the others
    for progress in (0.1, 0.2, 0.3, 0.5):
        learning.learn(make.batch(), progress)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = learning._optimizer
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        assert state["step"].item() == steps[name.startswith("heads.box.")], name


def test_a_head_is_not_begun_anew_twice() -> None:
    learning, model = learner(RESET)
    learning.learn(make.batch(), 0.1)
    learning.learn(make.batch(), 0.5)
    before = model.state_dict()["heads.box.tower.0.weight"].clone()
    learning.learn(make.batch(), 0.5)  # the rate is zero at the boundary
    torch.testing.assert_close(model.state_dict()["heads.box.tower.0.weight"], before)


def test_a_scoring_in_between_leaves_the_parts_that_are_held_still_so() -> None:
    """Without averaging the model that learns is the one that is scored."""
    learning, model = learner([{"name": "one", "share": 1.0, "learn": ["heads"]}], optim__ema_width=0.0)
    trained = dataclasses.replace(make.trained(make.config()), model=learning.kept)
    before = {name: module.training for name, module in model.named_modules()}
    placements = [Placement(scale=1.0, original_hw=make.HW)] * 3
    inference.detect(trained, make.batch().images, placements, dtype=torch.float32)
    assert {name: module.training for name, module in model.named_modules()} == before
    still = copied(model)
    learning.learn(make.batch(), 0.1)
    assert changed(model, still) == {"heads.classification", "heads.box"}
