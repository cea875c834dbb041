"""The branches' gradients meet: their sum where nothing acts, what was measured, and what reaches only the trunk."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from detector.config import BalanceConfig
from detector.train import balance
from detector.train.balance import Balancer
from detector.train.distributed import World
from detector.train.junction import Junction
from detector.train.objective import Objective
from tests.unit.train import make

ACTING = ("imtl_g", "mgda", "pcgrad", "cagrad")
NUM_LEVELS = 2


class Fixed(Balancer):
    """Coefficients of the test's choice."""

    acts_on_gradients = True

    def __init__(self, coefficients: Sequence[float]) -> None:
        super().__init__(len(coefficients))
        self.coefficients = torch.tensor(coefficients, dtype=torch.float64)

    def combine(self, gram: Tensor) -> Tensor:
        return self.coefficients


class Toy:
    """A trunk of two levels and `num` branches, each of which reads both."""

    def __init__(self, num: int = 3, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
        self.trunk = nn.Conv2d(3, 5, 3, padding=1).double()
        self.heads = nn.ModuleList(nn.Conv2d(5, 2, 1).double() for _ in range(num))

    def levels(self) -> list[Tensor]:
        fine = self.trunk(self.x)
        return [fine, nn.functional.avg_pool2d(fine, 2)]

    def loss(self, k: int, levels: Sequence[Tensor]) -> Tensor:
        return sum(((self.heads[k](x) - k).square().mean() for x in levels), start=torch.zeros(()).double())

    def run(self, junction: Junction | None, absent: Sequence[int] = ()) -> dict[str, Tensor | None]:
        """Gradients of everything, through the junction or without one."""
        levels = self.levels()
        copies = [levels] * len(self.heads) if junction is None else junction.fan_out(levels)
        losses = [self.loss(k, copies[k]) for k in range(len(self.heads)) if k not in absent]
        torch.stack(losses).sum().backward()
        named = [*self.trunk.named_parameters("trunk"), *self.heads.named_parameters("heads")]
        found = {name: parameter.grad for name, parameter in named}
        self.trunk.zero_grad()
        self.heads.zero_grad()
        return found

    def separately(self) -> tuple[list[Tensor], list[Tensor]]:
        """Gradient of each branch for the features and for the trunk's weights, by a backward pass of its own."""
        of_features: list[Tensor] = []
        of_trunk: list[Tensor] = []
        for k in range(len(self.heads)):
            levels = [level.detach().requires_grad_() for level in self.levels()]
            found = torch.autograd.grad(self.loss(k, levels), levels)
            of_features.append(torch.cat([gradient.flatten() for gradient in found]))
            loss = self.loss(k, self.levels())
            of_trunk.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*self.trunk.parameters()])]))
        return of_features, of_trunk


def junction(balancer: Balancer, clip_norm: float = 0.0) -> Junction:
    return Junction(balancer, num_branches=len(balancer.ones), world=World(), clip_norm=clip_norm)


def of_trunk(found: dict[str, Tensor | None]) -> Tensor:
    parts: list[Tensor] = []
    for name in ("trunk.weight", "trunk.bias"):
        gradient = found[name]
        assert gradient is not None
        parts.append(gradient.flatten())
    return torch.cat(parts)


@given(st.integers(1, 4), st.integers(0, 1000))
def test_without_a_rule_the_gradient_is_the_plain_sum(num: int, seed: int) -> None:
    toy = Toy(num, seed)
    expected = toy.run(None)
    found = toy.run(junction(Balancer(num)))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14, msg=name)


@given(st.integers(1, 4), st.integers(0, 1000))
def test_the_gram_matrix_is_that_of_separate_backward_passes(num: int, seed: int) -> None:
    toy, meeting = Toy(num, seed), junction(Balancer(num))
    rows = torch.stack(toy.separately()[0])
    toy.run(meeting)
    assert meeting.gram is not None
    assert meeting.gram.dtype == torch.float32
    torch.testing.assert_close(meeting.gram.double(), rows @ rows.T, rtol=1e-4, atol=1e-6)


def test_coefficients_reach_the_trunk_and_leave_the_heads_alone() -> None:
    toy, coefficients = Toy(), (0.5, -2.0, 3.0)
    plain = toy.run(None)
    found = toy.run(junction(Fixed(coefficients)))
    for name in (name for name in plain if name.startswith("heads")):
        torch.testing.assert_close(found[name], plain[name], rtol=1e-12, atol=1e-14, msg=name)
    weighed = sum(
        (c * g for c, g in zip(coefficients, toy.separately()[1], strict=True)), start=torch.zeros(()).double()
    )
    torch.testing.assert_close(of_trunk(found), weighed, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ACTING)
def test_a_rules_coefficients_are_those_of_the_gram_matrix(kind: str) -> None:
    toy = Toy(seed=1)  # its branches conflict
    rule = balance.make(BalanceConfig(kind=kind), 3)  # pyright: ignore[reportArgumentType]
    meeting = junction(rule)
    found = of_trunk(toy.run(meeting))
    assert meeting.gram is not None
    coefficients = rule.combine(meeting.gram).double()
    assert not torch.allclose(coefficients, torch.ones(3).double(), atol=1e-3)
    expected = (coefficients[:, None] * torch.stack(toy.separately()[1])).sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_each_branch_is_clipped_by_itself() -> None:
    toy = Toy()
    of_features, of_weights = toy.separately()
    norms = torch.stack([gradient.norm() for gradient in of_features])
    limit = norms.sort().values[:2].mean().item()  # above the smallest only
    meeting = junction(Balancer(3), clip_norm=limit)
    found = toy.run(meeting)
    factors = (limit / norms).clamp(max=1)
    assert (factors < 1).sum() == 2
    expected = (factors[:, None] * torch.stack(of_weights)).sum(0)
    torch.testing.assert_close(of_trunk(found), expected, rtol=1e-5, atol=1e-8)
    assert meeting.gram is not None
    # What is shown is what came, not what was let through.
    torch.testing.assert_close(meeting.gram.diagonal().double(), norms.square(), rtol=1e-4, atol=1e-8)


def test_a_rule_sees_clipped_gradients() -> None:
    toy, seen = Toy(), []

    class Sees(Fixed):
        def combine(self, gram: Tensor) -> Tensor:
            seen.append(gram)
            return super().combine(gram)

    toy.run(junction(Sees((1.0, 1.0, 1.0)), clip_norm=1e-3))
    torch.testing.assert_close(seen[0].diagonal(), torch.full((3,), 1e-6), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["fixed", *ACTING])
@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_a_branch_that_sends_nothing(kind: str, clip_norm: float) -> None:
    toy, rule = Toy(), balance.make(BalanceConfig(kind=kind), 3)  # pyright: ignore[reportArgumentType]
    meeting = junction(rule, clip_norm)
    found = toy.run(meeting, absent=[1])
    assert meeting.gram is not None
    assert (meeting.gram[1] == 0).all()
    assert (meeting.gram[:, 1] == 0).all()
    assert (meeting.gram.diagonal()[[0, 2]] > 0).all()
    assert of_trunk(found).isfinite().all()
    assert found["heads.1.weight"] is None
    if kind == "fixed" and not clip_norm:
        torch.testing.assert_close(of_trunk(found), of_trunk(toy.run(None, absent=[1])), rtol=1e-12, atol=1e-14)


def test_a_branch_that_reads_one_level_only() -> None:
    toy, meeting = Toy(2), junction(Balancer(2))
    copies = meeting.fan_out(toy.levels())
    (toy.loss(0, copies[0]) + toy.loss(1, copies[1][1:])).backward()
    found = toy.trunk.weight.grad
    toy.trunk.zero_grad()
    levels = toy.levels()
    (toy.loss(0, levels) + toy.loss(1, levels[1:])).backward()
    torch.testing.assert_close(found, toy.trunk.weight.grad, rtol=1e-12, atol=1e-14)


def test_a_frozen_trunk_is_not_measured() -> None:
    toy, meeting = Toy(), junction(Balancer(3))
    toy.run(meeting)
    assert meeting.gram is not None
    toy.trunk.requires_grad_(False)
    found = toy.run(meeting)
    assert meeting.gram is None  # nor is what was measured before taken for it
    assert all(found[f"heads.{k}.weight"] is not None for k in range(3))


def test_two_processes_with_the_same_images_measure_all_of_them() -> None:
    class Two(World):
        def sum(self, x: Tensor) -> Tensor:
            return 2 * x

    toy = Toy()
    one, two = junction(Balancer(3)), Junction(Balancer(3), num_branches=3, world=Two(size=2))
    toy.run(one)
    toy.run(two)
    assert one.gram is not None
    assert two.gram is not None
    # Each divides its loss by half the count: its gradients are twice what they add to the whole.
    torch.testing.assert_close(two.gram, one.gram / 2)


@pytest.mark.parametrize("changes", [{}, {"memory.heads": "sequential", "memory.piece_cells": 40}])
def test_a_rule_changes_the_trunk_and_no_head_of_a_network(changes: dict[str, str]) -> None:
    found: dict[str, dict[str, Tensor]] = {}
    for kind in ("fixed", "mgda"):
        config = make.config({"balance.kind": kind, **changes})
        objective = Objective(make.model(config).double(), config, dtype=torch.float32)
        objective(make.batch(), objective.base_weights).total.backward()
        found[kind] = {name: p.grad for name, p in objective.model.named_parameters() if p.grad is not None}
    for name, gradient in found["fixed"].items():
        is_equal = torch.allclose(found["mgda"][name], gradient, rtol=1e-9, atol=1e-12)
        assert is_equal == name.startswith("heads."), name
