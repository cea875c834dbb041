from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from detector.loss import classification

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

GAMMA = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5])


def _quality(logits: Tensor, labels: Tensor, is_positive: Tensor, weight: Tensor, *, gamma: float) -> Tensor:
    quality = torch.linspace(0, 1, labels.numel(), dtype=logits.dtype).view(labels.shape)
    return classification.quality_focal(logits, labels, is_positive, weight, quality=quality, gamma=gamma)


ALL: dict[str, Loss] = {
    "softmax": classification.softmax,
    "sigmoid": classification.sigmoid,
    "focal": partial(classification.focal, alpha=0.25, gamma=2.0),
    "focal, gamma 0.5": partial(classification.focal, alpha=0.6, gamma=0.5),
    "focal, gamma 0": partial(classification.focal, alpha=0.5, gamma=0.0),
    "quality": partial(_quality, gamma=2.0),
    "quality, gamma 0.5": partial(_quality, gamma=0.5),
}


@st.composite
def scene(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels (rubbish where background), is_positive, weight."""
    shape = draw(st.sampled_from([(1, 1), (2, 3), (1, 5)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(*shape, 4, generator=generator, dtype=torch.float64) * draw(st.sampled_from([0.1, 3.0, 20.0]))
    is_positive = torch.rand(shape, generator=generator) < 0.4
    labels = torch.where(is_positive, torch.randint(0, 3, shape, generator=generator), -100)
    weight = (torch.rand(shape, generator=generator) < 0.8).double()
    return logits, labels, is_positive, weight


def _one_hot(labels: Tensor, is_positive: Tensor, num_classes: int) -> Tensor:
    return F.one_hot(torch.where(is_positive, labels, 0), num_classes).double() * is_positive[..., None]


@given(scene())
def test_softmax_is_torchs_cross_entropy(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, labels, is_positive, weight = case
    used = weight > 0
    target = torch.where(is_positive, labels, 3)[used]
    expected = F.cross_entropy(logits[used], target, reduction="sum")
    torch.testing.assert_close(classification.softmax(*case), expected)


@given(scene())
def test_sigmoid_is_torchs_binary_cross_entropy(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, labels, is_positive, weight = case
    dense = F.binary_cross_entropy_with_logits(logits, _one_hot(labels, is_positive, 4), reduction="none")
    torch.testing.assert_close(classification.sigmoid(*case), (dense * weight[..., None]).sum(), rtol=1e-6, atol=1e-6)


@given(scene(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), GAMMA)
def test_focal_is_torchvisions(case: tuple[Tensor, Tensor, Tensor, Tensor], alpha: float, gamma: float) -> None:
    logits, labels, is_positive, weight = case
    dense = torchvision.ops.sigmoid_focal_loss(logits, _one_hot(labels, is_positive, 4), alpha=alpha, gamma=gamma)
    found = classification.focal(*case, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(found, (dense * weight[..., None]).sum(), rtol=1e-6, atol=1e-6)


@given(scene(), st.integers(0, 2**31), GAMMA)
def test_quality_focal_is_the_papers_equation(
    case: tuple[Tensor, Tensor, Tensor, Tensor], seed: int, gamma: float
) -> None:
    logits, labels, is_positive, weight = case
    quality = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = _one_hot(labels, is_positive, 4) * quality[..., None]
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    dense = (target - logits.sigmoid()).abs() ** gamma * entropy
    found = classification.quality_focal(*case, quality=quality, gamma=gamma)
    torch.testing.assert_close(found, (dense * weight[..., None]).sum(), rtol=1e-6, atol=1e-6)


def test_quality_focal_by_hand() -> None:
    logits, background = torch.zeros(1, 2), torch.zeros(1, dtype=torch.bool)
    weight, labels = torch.ones(1), torch.tensor([1])
    entropy = torch.tensor(2.0).log().item()
    for is_positive, expected in ((background, 2 * 0.25), (~background, 0.25 + 0.3**2)):
        found = classification.quality_focal(
            logits, labels, is_positive, weight, quality=torch.tensor([0.8]), gamma=2.0
        )
        assert found.item() == pytest.approx(expected * entropy)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=15)
@given(case=scene())
def test_gradient(name: str, case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    logits, labels, is_positive, weight = case
    logits = (logits / 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, labels, is_positive, weight), (logits,))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [0.0, 1e-4, 20.0, 89.0, 1e4])
def test_extreme_logits_in_float32_are_finite(name: str, size: float) -> None:
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    logits = (signs * size).requires_grad_()
    for label in range(2):
        for is_positive in (False, True):
            rows = torch.full((len(signs),), label), torch.full((len(signs),), is_positive), torch.ones(len(signs))
            value = ALL[name](logits, *rows)
            assert value.isfinite()
            assert value >= -1e-3
            (gradient,) = torch.autograd.grad(value, logits)
            assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_right_answer_costs_nothing_and_a_wrong_one_much(name: str) -> None:
    right = torch.tensor([[40.0, -40.0, -40.0]])
    if name.startswith("quality"):
        loss = partial(classification.quality_focal, quality=torch.ones(1), gamma=2.0 if name == "quality" else 0.5)
    else:
        loss = ALL[name]
    weight, positive = torch.ones(1), torch.ones(1, dtype=torch.bool)
    assert loss(right, torch.tensor([0]), positive, weight).item() == pytest.approx(0, abs=1e-4)
    assert loss(right, torch.tensor([1]), positive, weight).item() > 5


@pytest.mark.parametrize("name", ALL)
def test_weight_zero_leaves_a_prior_out(name: str) -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    labels, is_positive = torch.randint(0, 3, (2, 3)), torch.rand(2, 3) < 0.5
    weight = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    (gradient,) = torch.autograd.grad(ALL[name](logits, labels, is_positive, weight), logits)
    assert (gradient[weight == 0] == 0).all()
    assert (gradient[weight == 1] != 0).all()


@pytest.mark.parametrize("name", ALL)
def test_no_priors_cost_nothing(name: str) -> None:
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    assert ALL[name](torch.zeros(2, 0, 4), nothing, nothing.bool(), torch.zeros(2, 0)).item() == 0
