"""Each rule keeps what its paper promises, agrees with torchjd or a plain loop, and survives absent branches."""

import io
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchjd.aggregation import IMTLG, MGDA, CAGrad, PCGrad

from detector.config import BalanceConfig
from detector.train import balance
from detector.train.balance import Balancer

KINDS = get_args(BalanceConfig.__annotations__["kind"])
GRADIENT_KINDS = ("imtl_g", "mgda", "pcgrad", "cagrad")
C = 0.5  # of cagrad


def rule(kind: str, num_branches: int, **options: float) -> Balancer:
    return balance.make(BalanceConfig(kind=kind, **options), num_branches)


def gradients(num_branches: int, seed: int, size: int = 6) -> Tensor:
    return torch.randn(num_branches, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def combined(kind: str, rows: Tensor, **options: float) -> Tensor:
    return rule(kind, len(rows), **options).combine(rows @ rows.T) @ rows


def acute(num_branches: int, seed: int) -> Tensor:
    """Nearly orthogonal gradients of different lengths, for which IMTL-G needs no fallback."""
    noise = 0.2 * gradients(num_branches, seed, num_branches)
    return torch.diag(torch.arange(1, num_branches + 1).double()) + noise


counts = st.integers(2, 4)
seeds = st.integers(0, 10_000)
# On this grid zero, equal, opposite and dependent gradients are common, and inner products are exact.
grid_matrices = counts.flatmap(
    lambda k: st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.integers(-2, 2), min_size=n, max_size=n), min_size=k, max_size=k)
    )
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


# Properties of every rule


@pytest.mark.parametrize("kind", KINDS)
def test_starts_finite_on_nothing_and_is_saved_whole(kind: str) -> None:
    """A copy loaded halfway continues exactly as the original."""
    original = rule(kind, 3, lr=0.1)
    random = torch.Generator().manual_seed(1)

    def feed(balancer: Balancer, losses: Tensor, gram: Tensor, epoch: float) -> None:
        balancer.observe(losses, gram, epoch)
        for parameter in balancer.parameters():
            parameter.data.sub_(0.1 * losses)

    steps = []
    for step in range(1, 41):
        rows = torch.randn(3, 5, generator=random)
        steps.append((torch.rand(3, generator=random) + 0.1, rows @ rows.T, step / 5))
    original.observe(torch.zeros(3), torch.zeros(3, 3), 0.0)
    assert original.weights().isfinite().all()
    for step in steps[:23]:
        feed(original, *step)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    file.seek(0)
    copy = rule(kind, 3, lr=0.1)
    copy.load_state_dict(torch.load(file, weights_only=True))
    for step in steps[23:]:
        feed(original, *step)
        feed(copy, *step)
        assert torch.equal(original.weights(), copy.weights())
        assert torch.equal(original.penalty(), copy.penalty())
    weights = original.weights()
    assert weights.shape == (3,)
    assert weights.dtype == torch.float32
    if kind in ("uncertainty", "dwa", "gradnorm"):
        assert not torch.allclose(weights, rule(kind, 3).weights())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_waits_for_the_device(kind: str) -> None:
    """Tensors on `meta` have no values, so reading one on the host raises."""
    balancer = rule(kind, 3).to("meta")
    gram = torch.zeros(3, 3, device="meta")
    balancer.observe(torch.zeros(3, device="meta"), gram, 1.5)
    assert balancer.weights().shape == (3,)
    assert balancer.penalty().shape == ()
    assert balancer.combine(gram).shape == (3,)
    assert balancer.acts_on_gradients == (kind in GRADIENT_KINDS)


def test_fixed_changes_nothing() -> None:
    balancer = rule("fixed", 2)
    assert balancer.weights().tolist() == [1, 1]
    assert balancer.penalty() == 0
    assert balancer.combine(torch.rand(2, 2)).tolist() == [1, 1]


# Properties of the rules on gradients


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
@given(num_branches=counts, seed=seeds, data=st.data())
def test_order_of_the_branches_does_not_matter(kind: str, num_branches: int, seed: int, data: st.DataObject) -> None:
    num_branches = 2 if kind == "pcgrad" else num_branches  # its order is part of the rule from three branches on
    rows = acute(num_branches, seed)
    order = data.draw(st.permutations(range(num_branches)))
    coefficients = rule(kind, num_branches).combine(rows @ rows.T)
    reordered = rule(kind, num_branches).combine(rows[order] @ rows[order].T)
    torch.testing.assert_close(reordered, coefficients[order], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
@pytest.mark.parametrize("num_branches", [2, 3, 4])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_common_scale_does_not_matter(kind: str, num_branches: int, scale: float) -> None:
    rows = acute(num_branches, seed=3).float()
    expected = rule(kind, num_branches).combine(rows @ rows.T)
    found = rule(kind, num_branches).combine((rows * scale) @ (rows * scale).T)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
@given(num_branches=counts, seed=seeds, data=st.data())
def test_scales_far_apart_stay_finite(kind: str, num_branches: int, seed: int, data: st.DataObject) -> None:
    exponents = st.lists(st.sampled_from([-12, -6, 0, 6, 12]), min_size=num_branches, max_size=num_branches)
    scales = 10.0 ** torch.tensor(data.draw(exponents)).unsqueeze(1)
    rows = gradients(num_branches, seed, 2).float() * scales
    coefficients = rule(kind, num_branches).combine(rows @ rows.T)
    assert coefficients.isfinite().all()
    assert (coefficients @ rows).isfinite().all()


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
@given(rows=grid_matrices)
def test_any_gradients_give_finite_coefficients(kind: str, rows: Tensor) -> None:
    for gram in (rows @ rows.T, (rows @ rows.T).float(), 0 * rows @ rows.T):
        assert rule(kind, len(rows)).combine(gram).isfinite().all()


@pytest.mark.parametrize("kind", GRADIENT_KINDS)
@given(num_branches=st.integers(1, 3), seed=seeds, data=st.data())
def test_branch_without_gradient_is_ignored(kind: str, num_branches: int, seed: int, data: st.DataObject) -> None:
    rows = gradients(num_branches, seed)
    place = data.draw(st.integers(0, num_branches))
    padded = torch.cat([rows[:place], torch.zeros(1, rows.shape[1], dtype=rows.dtype), rows[place:]])
    alone = rule(kind, num_branches).combine(rows @ rows.T)
    found = rule(kind, num_branches + 1).combine(padded @ padded.T)
    assert found[place] == 1
    torch.testing.assert_close(torch.cat([found[:place], found[place + 1 :]]), alone, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["imtl_g", "mgda", "pcgrad"])
@pytest.mark.parametrize("num_branches", [1, 2, 3, 4])
def test_equal_gradients_are_added_plainly(kind: str, num_branches: int) -> None:
    coefficients = rule(kind, num_branches).combine(torch.full((num_branches, num_branches), 7.0))
    torch.testing.assert_close(coefficients, torch.ones(num_branches))


# Promises of the papers


@given(num_branches=counts, seed=seeds)
def test_imtl_g_projections_are_equal(num_branches: int, seed: int) -> None:
    rows = acute(num_branches, seed)
    coefficients = rule("imtl_g", num_branches).combine(rows @ rows.T)
    projections = (rows / rows.norm(dim=1, keepdim=True)) @ (coefficients @ rows)
    torch.testing.assert_close(projections, projections.mean().expand(num_branches))
    assert projections.min() > 0
    assert coefficients.sum().item() == pytest.approx(num_branches)


@given(rows=grid_matrices)
def test_imtl_g_never_explodes(rows: Tensor) -> None:
    assert rule("imtl_g", len(rows)).combine(rows @ rows.T).abs().max() <= 1001 * len(rows)


def test_imtl_g_does_not_turn_uphill() -> None:
    """Here the exact solution has a negative sum; dividing by it would ascend every loss."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 0.1]], dtype=torch.float64)
    rows = torch.cat([rows, torch.tensor([[0.0], [0.0], [0.01]])], dim=1)
    lengths = rows.norm(dim=1)
    assert torch.linalg.solve(rows @ rows.T, lengths).sum() < 0
    direction = combined("imtl_g", rows)
    assert (rows @ direction).min() > 0
    torch.testing.assert_close(direction, 3 * (rows / lengths.unsqueeze(1)).sum(dim=0) / (1 / lengths).sum())


@given(rows=grid_matrices)
def test_mgda_is_the_shortest_and_conflicts_with_none(rows: Tensor) -> None:
    """g . g_k >= |g|^2 for every k holds for the shortest convex combination and for no other."""
    coefficients = rule("mgda", len(rows)).combine(rows @ rows.T)
    present = rows.abs().sum(dim=1) > 0
    if present.any():
        shares = torch.where(present, coefficients, 0.0) / present.sum()
        assert shares.min() >= 0
        assert shares.sum().item() == pytest.approx(1)
        shortest = shares @ rows
        assert (rows[present] @ shortest).min() >= shortest @ shortest - 1e-5


@given(rows=grid_matrices)
def test_pcgrad_of_two_conflicts_with_none(rows: Tensor) -> None:
    rows = rows[:2]
    assert (rows @ combined("pcgrad", rows)).min() >= -1e-9


@given(num_branches=counts, seed=seeds)
def test_pcgrad_is_the_algorithm_in_the_order_of_the_branches(num_branches: int, seed: int) -> None:
    rows = gradients(num_branches, seed, 3)
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(num_branches):
        gradient = rows[i].clone()
        for j in range(num_branches):
            if i != j and gradient @ rows[j] < 0:
                gradient -= (gradient @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        expected += gradient
    torch.testing.assert_close(combined("pcgrad", rows), expected)


@given(num_branches=counts, seed=seeds)
def test_cagrad_helps_the_worst_branch_most(num_branches: int, seed: int) -> None:
    """Weak duality: no direction of the ball serves the worst branch better than the lowest value of the dual."""
    rows = gradients(num_branches, seed)
    direction = combined("cagrad", rows, conflict_aversion=C) / num_branches
    mean = rows.mean(dim=0)
    assert (direction - mean).norm() <= C * mean.norm() * (1 + 1e-9)
    worst = (rows @ direction).min()
    assert worst >= (rows @ mean).min() - 1e-9
    random = torch.Generator().manual_seed(seed)
    others = torch.randn(500, rows.shape[1], generator=random, dtype=torch.float64)
    others = mean + C * mean.norm() * others / others.norm(dim=1, keepdim=True)
    assert worst >= (others @ rows.T).min(dim=1).values.max() - 1e-9
    shares = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(num_branches) / 2, 500)) @ rows
    dual = shares @ mean + C * mean.norm() * shares.norm(dim=1)
    assert worst <= dual.min() + 1e-9


def test_cagrad_reaches_its_dual() -> None:
    for seed in range(50):
        rows = gradients(2, seed)
        mean = rows.mean(dim=0)
        t = torch.linspace(0, 1, 20_001, dtype=torch.float64).unsqueeze(1)
        points = t * rows[0] + (1 - t) * rows[1]
        dual = (points @ mean + C * mean.norm() * points.norm(dim=1)).min()
        worst = (rows @ combined("cagrad", rows, conflict_aversion=C)).min() / 2
        assert worst.item() == pytest.approx(dual.item(), rel=1e-6, abs=1e-6)


@given(rows=grid_matrices)
def test_cagrad_without_aversion_is_the_sum(rows: Tensor) -> None:
    torch.testing.assert_close(combined("cagrad", rows, conflict_aversion=0.0), rows.sum(dim=0))


# Closed forms for two branches


@given(seed=seeds)
def test_two_branches_by_hand(seed: int) -> None:
    rows = gradients(2, seed)
    (a, b), dot = rows.norm(dim=1), rows[0] @ rows[1]
    imtl_g = 2 * torch.stack([b, a]) / (a + b)
    share = ((b**2 - dot) / ((rows[0] - rows[1]) @ (rows[0] - rows[1]))).clamp(0, 1)
    conflict = dot.clamp(max=0)
    pcgrad = torch.stack([1 - conflict / a**2, 1 - conflict / b**2])
    for kind, expected in (("imtl_g", imtl_g), ("mgda", 2 * torch.stack([share, 1 - share])), ("pcgrad", pcgrad)):
        torch.testing.assert_close(rule(kind, 2).combine(rows @ rows.T), expected, rtol=1e-9, atol=1e-9)


def test_opposite_gradients_of_equal_length_cancel() -> None:
    rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    for kind in GRADIENT_KINDS:
        torch.testing.assert_close(combined(kind, rows), torch.zeros(2), atol=1e-5, rtol=0)


# torchjd, which takes convex combinations or means where we take A times as much


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("num_branches", [2, 3, 4])
def test_agrees_with_torchjd(num_branches: int, seed: int) -> None:
    rows, near = gradients(num_branches, seed), acute(num_branches, seed)
    k = num_branches
    torch.testing.assert_close(combined("imtl_g", near), k * IMTLG()(near), rtol=1e-9, atol=1e-9)
    # Their Frank-Wolfe is exact for two, and slow to converge from three on: ours is at least as short.
    mgda, ours = k * MGDA(epsilon=1e-9, max_iters=20_000)(rows), combined("mgda", rows)
    torch.testing.assert_close(ours, mgda, rtol=0, atol=1e-9 if k == 2 else 1e-2)
    assert ours.norm() <= mgda.norm() + 1e-9
    # Their solver stops at about 1e-5.
    cagrad = CAGrad(c=C, norm_eps=1e-9)(rows)
    torch.testing.assert_close(combined("cagrad", rows, conflict_aversion=C), k * cagrad, rtol=0, atol=1e-3)
    if k == 2:
        torch.testing.assert_close(combined("pcgrad", rows), PCGrad()(rows), rtol=1e-9, atol=1e-9)


# Rules on losses


def test_uncertainty_learns_the_logarithm_of_the_losses() -> None:
    """With the network at rest, s minimises L / (2 e^s) + s / 2 at e^s = L; beyond the limits it stays at them."""
    losses = torch.tensor([0.2, 1.0, 7.0, 1e-6, 1e6])
    balancer = rule("uncertainty", 5)
    torch.testing.assert_close(balancer.weights(), torch.full((5,), 0.5 * math.exp(0.5)))
    torch.testing.assert_close(balancer.penalty().item(), 5 * -0.25)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.02)
    for step in range(1500):
        optimizer.zero_grad()
        ((balancer.weights() * losses).sum() + balancer.penalty()).backward()
        optimizer.step()
        balancer.observe(losses, torch.eye(5), step / 100)
    expected = torch.tensor([0.2, 1.0, 7.0, math.exp(-3), math.exp(3)])
    torch.testing.assert_close(0.5 / balancer.weights(), expected, rtol=1e-3, atol=0)


def test_uncertainty_is_clamped_and_comes_back() -> None:
    balancer = rule("uncertainty", 2)
    (parameter,) = balancer.parameters()
    parameter.data.copy_(torch.tensor([10.0, -10.0]))
    balancer.observe(torch.ones(2), torch.eye(2), 0.1)
    torch.testing.assert_close(balancer.weights(), 0.5 * torch.exp(torch.tensor([-3.0, 3.0])))
    assert balancer.penalty() == 0
    ((balancer.weights() * torch.ones(2)).sum() + balancer.penalty()).backward()
    assert parameter.grad is not None
    assert (parameter.grad != 0).all()


def test_uncertainty_leaves_a_loss_alone_that_is_off() -> None:
    balancer = rule("uncertainty", 2)
    (parameter,) = balancer.parameters()
    losses = torch.tensor([1.0, 0.0])
    balancer.observe(losses, torch.diag(losses), 0.1)
    ((balancer.weights() * losses).sum() + balancer.penalty()).backward()
    assert parameter.grad is not None
    assert parameter.grad[0] != 0
    assert parameter.grad[1] == 0


def test_dwa_is_the_reference_over_epochs() -> None:
    random = np.random.default_rng(0)
    losses = random.uniform(0.1, 3.0, size=(6, 7, 3))  # [epoch, step, branch]
    balancer = rule("dwa", 3, temperature=1.5)
    for epoch in range(6):
        expected = np.ones(3)
        if epoch >= 2:
            ratio = losses[epoch - 1].mean(axis=0) / losses[epoch - 2].mean(axis=0)
            expected = 3 * np.exp(ratio / 1.5) / np.exp(ratio / 1.5).sum()
        for step in range(7):
            np.testing.assert_allclose(balancer.weights().numpy(), expected, rtol=1e-5)
            balancer.observe(torch.tensor(losses[epoch, step]).float(), torch.eye(3), epoch + (step + 1) / 7)


def test_dwa_ignores_a_loss_that_is_off_and_one_that_is_not_a_number() -> None:
    three, two = rule("dwa", 3), rule("dwa", 2)
    for epoch in range(1, 5):
        losses = torch.tensor([1.0 / epoch, 2.0 + epoch])
        two.observe(losses, torch.eye(2), float(epoch))
        three.observe(torch.cat([losses, torch.zeros(1)]), torch.eye(3), epoch - 0.5)
        three.observe(torch.full((3,), math.nan), torch.eye(3), float(epoch))
    torch.testing.assert_close(three.weights()[:2], two.weights())
    assert three.weights()[2] == 1
    assert not torch.allclose(two.weights(), torch.ones(2))


def gradnorm_reference(losses: np.ndarray, norms: np.ndarray, lr: float, alpha: float) -> np.ndarray:
    """Weights after every step; `norms` are those of the gradients of the losses before their weights."""
    weights, history = np.ones(losses.shape[1]), []
    for loss, norm in zip(losses, norms, strict=True):
        weighted = weights * norm
        rate = (loss / losses[0]) / (loss / losses[0]).mean()
        target = weighted.mean() * rate**alpha
        slope = np.array([math.copysign(1, g - t) * n for g, t, n in zip(weighted, target, norm, strict=True)])
        weights = np.maximum(weights - lr * slope / weighted.mean(), 0.01)
        weights = weights * len(weights) / weights.sum()
        history.append(weights)
    return np.array(history)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_gradnorm_is_the_reference_over_steps(scale: float) -> None:
    random = np.random.default_rng(0)
    losses, norms = random.uniform(0.5, 2, (40, 3)), random.uniform(0.5, 1.0, (40, 3)) * [0.2, 1, 3]
    balancer = rule("gradnorm", 3, lr=0.02, restoring=1.2)
    found = []
    for loss, norm in zip(losses, norms, strict=True):
        weighted = balancer.weights() * torch.tensor(norm * scale).float()
        balancer.observe(torch.tensor(loss * scale).float(), torch.diag(weighted**2), 0.0)
        found.append(balancer.weights().numpy())
    np.testing.assert_allclose(found, gradnorm_reference(losses, norms, 0.02, 1.2), rtol=1e-3)


def test_gradnorm_evens_out_the_norms() -> None:
    """With equal training rates the weighted norms become equal."""
    norms = torch.tensor([0.5, 1.0, 2.0])
    balancer = rule("gradnorm", 3, lr=0.002)
    for _ in range(3000):
        balancer.observe(torch.ones(3), torch.diag((balancer.weights() * norms) ** 2), 0.0)
    weights = balancer.weights()
    torch.testing.assert_close(weights, 3 / norms / (1 / norms).sum(), rtol=0.02, atol=0)
    assert weights.sum().item() == pytest.approx(3)


def test_gradnorm_ignores_a_branch_that_is_off_and_starts_it_later() -> None:
    three, two = rule("gradnorm", 3, lr=0.05), rule("gradnorm", 2, lr=0.05)
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        losses, norms = torch.rand(2, generator=random) + 0.5, torch.rand(2, generator=random) + 0.5
        two.observe(losses, torch.diag((two.weights() * norms) ** 2), 0.0)
        weighted = three.weights() * torch.cat([norms, torch.zeros(1)])
        three.observe(torch.cat([losses, torch.zeros(1)]), torch.diag(weighted**2), 0.0)
    torch.testing.assert_close(three.weights()[:2], two.weights())
    assert three.weights()[2] == 1
    three.observe(torch.ones(3), torch.diag(torch.tensor([1.0, 1.0, 4.0])), 0.0)
    assert three.weights().isfinite().all()
    assert three.weights()[2] < 1


@pytest.mark.parametrize("kind", ["dwa", "gradnorm", "uncertainty"])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_losses_of_any_scale_give_finite_positive_weights(kind: str, scale: float) -> None:
    balancer = rule(kind, 2, lr=0.5)
    for step in range(1, 9):
        losses = torch.tensor([scale, 1.0]) if step % 2 else torch.tensor([1.0, scale])
        balancer.observe(losses, torch.diag(losses**2), float(step))
        assert balancer.weights().isfinite().all()
        assert (balancer.weights() >= 0).all()
