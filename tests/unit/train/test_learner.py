"""A step, and going on from a saved state as if training had not stopped."""

import dataclasses
import io
import re
from typing import Any

import pytest
import torch

from detector.errors import ConfigError
from detector.train.distributed import World
from detector.train.learner import Learned, Learner
from detector.train.state import LearnerState
from tests.unit.train import make

FAST = {"optim.warmup_steps": 2, "optim.lr": 1e-3, "model.heads.box.tower.depth": 1}
STAGES = [
    {"name": "a", "share": 0.4, "learn": ["neck", "heads"], "weights": {"box.giou": 0.5}},
    {"name": "b", "share": 0.6, "reset": ["box"], "lr_factor": 0.5},
]
TOTAL, SAVED = 6, 4  # steps; the stage changes at step 2.4


def learner(changes: dict[str, Any] | None = None) -> Learner:
    config = make.config(FAST | (changes or {}))
    return Learner(make.model(config), config, dtype=torch.float32)


def train(learning: Learner, first: int, last: int) -> None:
    for step in range(first, last):
        learning.learn(make.batch(seed=step), step / TOTAL, epoch=step / 2)


def through_a_file(state: LearnerState) -> LearnerState:
    file = io.BytesIO()
    torch.save(dataclasses.asdict(state), file)
    file.seek(0)
    return LearnerState(**torch.load(file, weights_only=True))


def assert_equal(found: Any, expected: Any, where: str = "state") -> None:
    """Bit for bit, in nested mappings and lists."""
    if isinstance(expected, LearnerState):
        found, expected = dataclasses.asdict(found), dataclasses.asdict(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_equal(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_equal(found[i], value, f"{where}.{i}")
    else:
        assert found == expected, where


@pytest.mark.parametrize("saved_at", [2, SAVED])  # before a head begins anew, and after
@pytest.mark.parametrize(
    "changes",
    [
        {"balance.kind": "uncertainty", "stages": STAGES},
        {"balance.kind": "gradnorm", "optim.name": "sgd"},
        {"balance.kind": "dwa", "stages": STAGES, "optim.ema_width": 0.0, "memory.heads": "sequential"},
    ],
    ids=lambda changes: changes["balance.kind"],
)
def test_going_on_from_a_saved_state_is_as_if_nothing_had_happened(changes: dict[str, Any], saved_at: int) -> None:
    undisturbed = learner(changes)
    train(undisturbed, 0, saved_at)
    saved = through_a_file(undisturbed.capture())
    train(undisturbed, saved_at, TOTAL)

    torch.manual_seed(123)
    config = make.config(FAST | changes)
    again = Learner(make.model(config, seed=7), config, dtype=torch.float32)
    again.restore(saved)
    assert again.steps == saved_at
    assert again.stage == (1 if "stages" in changes and saved_at == SAVED else 0)
    assert_equal(again.capture(), saved)
    train(again, saved_at, TOTAL)
    assert_equal(again.capture(), undisturbed.capture())


def test_a_state_from_the_first_stage_goes_on_in_it() -> None:
    changes = {"stages": STAGES}
    first, again = learner(changes), learner(changes)
    train(first, 0, 2)
    again.restore(through_a_file(first.capture()))
    assert again.stage == 0
    assert not any(parameter.requires_grad for parameter in again.objective.model.backbone.parameters())
    train(again, 2, 4)
    assert again.stage == 1
    assert any(parameter.requires_grad for parameter in again.objective.model.backbone.parameters())


def test_the_kept_model_is_the_average_where_there_is_one() -> None:
    averaged, plain = learner(), learner({"optim.ema_width": 0.0})
    assert plain.kept is plain.objective.model
    assert averaged.kept is not averaged.objective.model
    assert plain.capture().average is None


def test_parts_that_are_held_still_are_not_decayed() -> None:
    stages = [{"name": "a", "share": 1.0, "learn": ["heads"]}]
    learning = learner({"stages": stages, "optim.weight_decay": 0.5, "optim.lr": 0.1, "optim.warmup_steps": 0})
    model = learning.objective.model
    before = {name: value.clone() for name, value in model.named_parameters()}
    train(learning, 0, 2)
    for name, value in model.named_parameters():
        if not name.startswith("heads."):
            assert torch.equal(value, before[name]), name


def test_what_a_step_shows() -> None:
    learning = learner()
    learned = learning.learn(make.batch(), 0.0)
    terms = ("classification.cross_entropy", "box.smooth_l1", "box.giou")
    assert learned.losses.terms == terms
    weights = torch.tensor(learning.objective.base_weights)
    weighed = weights * learned.losses.values
    torch.testing.assert_close(learned.branches, torch.stack((weighed[0], weighed[1:].sum())))
    assert not learned.branches.requires_grad
    assert learned.gram is not None
    assert learned.gram.shape == (2, 2)


def test_a_frozen_trunk_shows_no_gram_matrix() -> None:
    stages = [{"name": "a", "share": 1.0, "learn": ["heads"]}]
    assert learner({"stages": stages, "balance.kind": "gradnorm"}).learn(make.batch(), 0.0).gram is None


def test_the_rate_of_a_step_is_that_of_the_schedule_and_the_stage() -> None:
    learning = learner({"stages": STAGES})
    learning.learn(make.batch(), 0.0)
    assert learning.lr == pytest.approx(1e-3 / 2)  # the first of two steps of warm-up
    learning.learn(make.batch(), 0.1)
    assert learning.lr == pytest.approx(1e-3 * (0.01 + 0.99 * (1 + torch.tensor(0.1 * torch.pi).cos().item()) / 2))
    learning.learn(make.batch(), 0.4)
    assert learning.lr == pytest.approx(0, abs=1e-9)
    learning.learn(make.batch(), 1.0)
    assert learning.lr == pytest.approx(1e-3 * 0.01 * 0.5)


@pytest.mark.parametrize("kind", ["fixed", "uncertainty"])  # whose own weights always learn
def test_a_later_stage_in_which_nothing_could_learn_is_refused_at_once(kind: str) -> None:
    idle = {"name": "idle", "share": 0.5, "learn": ["box"], "weights": {"box.smooth_l1": 0, "box.giou": 0}}
    message = "stages.idle: no loss with a weight reaches the parts that learn (box)"
    with pytest.raises(ConfigError, match=re.escape(message)):
        learner({"balance.kind": kind, "stages": [{"name": "first", "share": 0.5}, idle]})


def test_a_loss_reaches_the_head_that_its_own_reads_unless_the_cascade_is_cut() -> None:
    only_box = {"name": "a", "share": 1, "learn": ["classification"], "weights": {"classification.cross_entropy": 0}}
    cascade = {"model.heads.box.input": "classification", "stages": [only_box]}
    learner(cascade)
    with pytest.raises(ConfigError, match="no loss with a weight reaches"):
        learner(cascade | {"model.cascade_gradient": "detach"})


def first_weights(learning: Learner, name: str) -> torch.Tensor:
    return learning.objective.model.heads.head_named(name).tower[0].weight.detach().clone()


def test_a_reset_in_the_first_stage_happens_and_each_head_draws_its_own_weights() -> None:
    config = make.config({"stages": [{"name": "a", "share": 1, "reset": ["classification", "box"]}]})
    model = make.model(config)
    before = model.heads.head_named("box").tower[0].weight.detach().clone()
    learning = Learner(model, config, dtype=torch.float32)
    assert not torch.equal(first_weights(learning, "box"), before)
    assert not torch.equal(first_weights(learning, "box"), first_weights(learning, "classification"))


def test_a_stage_that_is_passed_over_still_resets() -> None:
    stages = [("a", 0.4, []), ("b", 0.2, ["box"]), ("c", 0.4, [])]
    learning = learner({"stages": [{"name": n, "share": share, "reset": reset} for n, share, reset in stages]})
    before = first_weights(learning, "box")
    learning.learn(make.batch(), 0.9)
    assert learning.stage == 2
    moved = (first_weights(learning, "box") - before).abs().mean()
    assert moved > 5e-3  # one step of the optimizer moves by less than its rate of 1e-3


def test_the_average_of_a_reset_head_forgets_its_random_start() -> None:
    """Its span counts from the reset, as that of every other weight counts from the start of the run."""
    stages = [{"name": "a", "share": 0.9}, {"name": "b", "share": 0.1, "reset": ["box"]}]
    learning = learner({"optim.ema_width": 0.2, "stages": stages})
    for _ in range(20):
        learning.learn(make.batch(), 0.1)
    learning.learn(make.batch(), 0.95)
    kept = learning.kept.heads.head_named("box").tower[0].weight
    # After one step the average is the weights of that step, nothing of what was drawn before it.
    torch.testing.assert_close(kept, first_weights(learning, "box"))


@pytest.mark.parametrize("kind", ["gradnorm", "dwa"])
def test_a_loss_that_a_stage_fades_in_does_not_crush_the_others(kind: str) -> None:
    first = {"name": "a", "share": 0.5, "weights": {"box.smooth_l1": 0, "box.giou": 0}}
    learning = learner({"balance.kind": kind, "stages": [first, {"name": "b", "share": 0.5}]})
    for step in range(100):
        learning.learn(make.batch(), step / 100, epoch=step / 10)
    assert learning.objective.balancer.weights()[0] > 0.2  # the one that was there before


Gradients = tuple[dict[str, torch.Tensor], Learned]


def gradients(changes: dict[str, Any], parts: int, dtype: torch.dtype) -> Gradients:
    """Of six images in so many parts, at weights that are the same in every type."""
    still = {"model.norm": "frozen", "optim.clip_norm": 0.0, "memory.micro_batches": parts}
    config = make.config(still | changes)
    model = make.model(config).to(dtype)
    for module in model.modules():  # a frozen norm that is the identity lets activations of random weights explode
        if hasattr(module, "running_var"):
            module.running_var.fill_(4.0)
    learning = Learner(model, config, dtype=torch.float32)
    shown = learning.learn(make.batch(6), 0.0)
    named = learning.objective.model.named_parameters()
    return {name: p.grad.double() for name, p in named if p.grad is not None}, shown


def furthest(found: Gradients, expected: Gradients) -> float:
    """Largest difference of a gradient, as a share of the largest number of its tensor."""
    assert found[0].keys() == expected[0].keys()
    pairs = [(found[0][name], gradient) for name, gradient in expected[0].items()]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-30)) for a, b in pairs)


@pytest.mark.parametrize(
    "changes", [{}, {"memory.heads": "sequential"}, {"assign.kind": "max_iou"}, {"model.norm": "group"}], ids=str
)
def test_parts_of_a_batch_add_up_to_the_whole(changes: dict[str, Any]) -> None:
    """Objects lie unevenly: a part may have none, and each divides by the count of the whole."""
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):  # what is left is rounding
        whole = gradients(changes, 1, dtype)
        for parts in (2, 3, 9):
            found = gradients(changes, parts, dtype)
            assert furthest(found, whole) <= bound, (dtype, parts)
            # What is shown is float32 in any case.
            torch.testing.assert_close(found[1].losses.values, whole[1].losses.values, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(found[1].branches, whole[1].branches, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"balance.kind": "imtl_g"}, "balance.kind = imtl_g"),
        ({"assign.kind": "task_aligned"}, "assign.kind = task_aligned"),
        ({"optim.head_clip_norm": 1.0}, "optim.head_clip_norm = 1.0"),
    ],
)
def test_what_cannot_be_added_up_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"memory.micro_batches = 2 does not go with {re.escape(key)}"):
        make.config(changes | {"memory.micro_batches": 2})


class _Two(World):
    """With another process, whose statistics are 2 higher."""

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def test_processes_share_the_statistics_of_norms_that_learn() -> None:
    learning = learner({"model.frozen_stages": 1})
    train(learning, 0, 1)
    models = {"model": learning.objective.model, "average": learning.kept}
    before = {key: {name: b.clone() for name, b in model.named_buffers()} for key, model in models.items()}
    learning.share_statistics()  # of one process: nothing
    learning.world = _Two(size=2)
    learning.share_statistics()
    for key, model in models.items():
        for name, buffer in model.named_buffers():
            # The stem is frozen: its norm shows what ImageNet taught it.
            is_shared = "running_" in name and not name.startswith("backbone.bn1.")
            torch.testing.assert_close(buffer, before[key][name] + is_shared, rtol=0, atol=0, msg=f"{key} {name}")
