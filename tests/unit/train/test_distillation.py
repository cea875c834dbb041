"""A teacher that fits, stays outside and stays as it is; a student that is compared with it in any memory mode."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.config import RunConfig
from detector.errors import CheckpointError, ConfigError
from detector.model import model_file
from detector.model.model_file import TrainedModel
from detector.train import distillation
from detector.train.distillation import Adapters, Teacher
from detector.train.learner import Learner
from detector.train.objective import Objective
from tests.unit.train import make

WIDE = {"model.pyramid.width": 24}
SEQUENTIAL = {"memory.heads": "sequential", "memory.piece_cells": 40}
FROZEN_NORMS = {"model.norm": "frozen"}  # the same features in training as in evaluation


def teacher(changes: dict[str, Any] | None = None, seed: int = 5) -> tuple[Teacher, TrainedModel]:
    trained = make.trained(make.config(changes), seed=seed)
    return Teacher(trained, dtype=torch.float32), trained


def learner(changes: dict[str, Any], of: Teacher) -> Learner:
    config = make.config({"optim.warmup_steps": 0, "optim.lr": 1e-3, **changes})
    return Learner(make.model(config), config, dtype=torch.float32, teacher=of)


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_unchanged(module: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


# A teacher that fits


def load(folder: Path, theirs: TrainedModel, ours: TrainedModel | None = None) -> Teacher:
    path = folder / "teacher.safetensors"
    model_file.save(path, theirs)
    return distillation.load(path, ours or make.trained(make.config()), dtype=torch.float32)


@pytest.mark.parametrize(
    "changes",
    [{}, WIDE, {"model.backbone": "resnet34"}, {"loss.classification": "focal"}, {"model.heads.box.tower.depth": 1}],
)
def test_a_teacher_may_be_wider_deeper_and_otherwise_trained(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = load(tmp_path, make.trained(make.config(changes)))
    assert found.width == changes.get("model.pyramid.width", 16)
    assert found.num_levels == 4


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (("a", "b"), "2: teacher '-', data 'c'"),
        (("a", "b", "c", "d"), "3: teacher 'd', data '-'"),
        (("b", "a", "c"), "0: teacher 'b', data 'a'; 1: teacher 'a', data 'b'; train a teacher on this data"),
        (tuple("uvwxyz"), "4: teacher 'y', data '-' and 1 more; train"),
    ],
)
def test_a_teacher_of_other_classes_is_shown_beside_the_data(
    tmp_path: Path, theirs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(tmp_path, make.trained(make.config(), names=theirs))
    assert "teacher.safetensors: the teacher has other classes than the data" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.pyramid.last_level": 5}, "priors a level of the teacher are (96, 24, 6), of the student (96, 24, 6, "),
        ({"model.priors.ratios": [0.5, 1, 2]}, "priors a level of the teacher"),
        ({"model.priors.scales": [3]}, "model.priors of the teacher are PriorConfig(scales=(3.0,)"),
        ({"model.priors.anchoring": "corner"}, "model.priors of the teacher"),
        ({"model.delta_std": [1, 1, 1, 1]}, "model.delta_std of the teacher are (1.0, 1.0, 1.0, 1.0), of the student"),
        ({"loss.classification": "softmax"}, "class outputs of the teacher are 4, of the student 3"),
    ],
)
def test_a_teacher_of_another_layout_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(tmp_path, make.trained(make.config(changes)))
    assert "train both with the same recipe" in str(caught.value)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        distillation.load(tmp_path / "nowhere.safetensors", make.trained(make.config()), dtype=torch.float32)


# It stays outside, and as it is


def test_a_teacher_is_no_part_of_the_objective_and_is_not_changed() -> None:
    of, trained = teacher(WIDE)
    before = copied(trained.model)
    learning = learner({}, of)
    mine = {id(p) for p in trained.model.parameters()}
    assert not mine & {id(p) for p in learning.objective.parameters()}
    assert {name.split(".")[0] for name in learning.objective.state_dict()} == {"model", "adapters"}
    for seed in range(2):
        learning.learn(make.batch(seed=seed), 0.1)
    assert_unchanged(trained.model, before)
    assert all(p.grad is None for p in trained.model.parameters())
    assert not trained.model.training


def test_a_lesson_has_no_gradient_and_is_float32() -> None:
    of = Teacher(make.trained(make.config()), dtype=torch.bfloat16)
    lesson = of.look(make.batch().images)
    for tensor in (*lesson.levels, lesson.logits, lesson.deltas, lesson.confidence):
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad


def test_the_boxes_of_a_lesson_weigh_the_count_together() -> None:
    lesson = teacher()[0].look(make.batch().images)
    found = lesson.targets(torch.tensor(7.0), lesson.confidence.sum())
    torch.testing.assert_close(found.box_weight.sum(), torch.tensor(7.0))
    torch.testing.assert_close(found.box_weight / found.box_weight.max(), lesson.confidence / lesson.confidence.max())


# Adapters


def test_adapters_stand_only_where_the_widths_differ() -> None:
    assert list(Adapters(16, 16, 3).parameters()) == []
    different = Adapters(16, 24, 3)
    assert [tuple(level.weight.shape) for level in different.levels] == [(24, 16, 1, 1)] * 3


def test_adapters_learn_and_are_left_behind(tmp_path: Path) -> None:
    learning = learner({}, teacher(WIDE)[0])
    assert learning.objective.adapters is not None
    before = copied(learning.objective.adapters)
    learning.learn(make.batch(), 0.1)
    for name, value in learning.objective.adapters.state_dict().items():
        assert not torch.equal(value, before[name]), name
    student = make.trained(make.config())
    path = tmp_path / "student.safetensors"
    model_file.save(path, student, learning.kept.state_dict())
    tensors, _ = model_file.read_tensors(path)
    assert {name.split(".")[0] for name in tensors} == {"backbone", "neck", "heads"}
    model_file.load(path)


# Losses


def test_the_terms_are_those_of_heads_and_features() -> None:
    learning = learner({}, teacher()[0])
    assert learning.objective.branches == ("classification", "box", "features")
    assert learning.objective.terms == (
        *("classification.cross_entropy", "classification.logit"),
        *("box.smooth_l1", "box.giou", "box.logit"),
        *("features.hidden", "features.attention"),
    )
    assert learning.objective.base_weights == pytest.approx((1, 1, 0.25, 2, 1, 10, 1))


def losses(objective: Objective, of: Teacher) -> dict[str, float]:
    batch = make.batch()
    found = objective(batch, objective.base_weights, lesson=of.look(batch.images)).losses
    return dict(zip(found.terms, found.values.tolist(), strict=True))


@pytest.mark.parametrize("how", [{}, SEQUENTIAL])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn_from_its_features(how: dict[str, Any]) -> None:
    of, _ = teacher(FROZEN_NORMS, seed=0)
    for seed, is_equal in ((0, True), (1, False)):
        config = make.config(FROZEN_NORMS | how)
        objective = Objective(make.model(config, seed=seed).train(), config, dtype=torch.float32, teacher=of)
        found = losses(objective, of)
        for term in ("features.hidden", "features.attention", "classification.logit", "box.logit"):
            assert (abs(found[term]) < 1e-5) == is_equal, term


OF_HEADS = ("classification.cross_entropy", "classification.logit", "box.smooth_l1", "box.giou", "box.logit")
HINTS = dict.fromkeys(OF_HEADS, 0)


@pytest.mark.parametrize("how", [{}, SEQUENTIAL])
def test_a_stage_of_hints_leaves_the_heads_alone(how: dict[str, Any]) -> None:
    stage = {"name": "hints", "share": 1.0, "weights": HINTS, "learn": ["backbone", "neck"]}
    learning = learner({"stages": [stage], "distill.teacher": "teacher.safetensors", **how}, teacher(WIDE)[0])
    model = learning.objective.model
    heads, neck = copied(model.heads), copied(model.neck)
    learned = learning.learn(make.batch(), 0.1)
    learning.learn(make.batch(), 0.2)
    assert_unchanged(model.heads, heads)
    assert any(not torch.equal(value, neck[name]) for name, value in model.neck.state_dict().items())
    assert learned.losses.values[:5].tolist() == [0] * 5
    assert (learned.losses.values[5:] > 0).all()
    assert learned.gram is not None
    assert (learned.gram[:2] == 0).all()
    assert learned.gram[2, 2] > 0


def gradients(changes: dict[str, Any], of: Teacher) -> tuple[dict[str, Tensor], Tensor]:
    config: RunConfig = make.config(changes)
    objective = Objective(make.model(config), config, dtype=torch.float32, teacher=of).double()
    batch = make.batch()
    step = objective(batch, objective.base_weights, lesson=of.look(batch.images))
    step.total.backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}, step.losses.values


CASCADE = {"model.heads.box.input": "classification"}


@pytest.mark.parametrize("changes", [{}, CASCADE, {"loss.classification": "softmax"}])
def test_joint_and_sequential_heads_learn_the_same_of_a_teacher(changes: dict[str, Any]) -> None:
    of, _ = teacher(WIDE | {key: value for key, value in changes.items() if key.startswith("loss")})
    expected, terms = gradients(changes, of)
    found, found_terms = gradients(changes | SEQUENTIAL, of)
    torch.testing.assert_close(found_terms, terms, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    assert any(name.startswith("adapters.") for name in found)
    for name, gradient in found.items():
        scale = max(1.0, expected[name].abs().max().item())
        torch.testing.assert_close(gradient, expected[name], atol=1e-9 * scale, rtol=0, msg=name)


def test_a_refining_box_head_learns_from_a_teacher_by_the_first_one() -> None:
    """Offsets of the second count from other references; of a teacher it hears through the features alone."""
    tower = {"depth": 1, "width": 16}
    heads = [
        {"name": "classification", "kind": "classification", "tower": tower},
        {"name": "box", "kind": "box", "tower": tower},
        {"name": "finer", "kind": "box", "input": "box", "tower": tower},
    ]
    learning = learner({"model.heads": heads}, teacher()[0])
    learned = learning.learn(make.batch(), 0.1)
    assert "box.logit" in learned.losses.terms
    assert "finer.logit" not in learned.losses.terms
    assert learned.losses.values.isfinite().all()
