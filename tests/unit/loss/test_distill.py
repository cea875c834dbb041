import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.loss import classification, distill

Loss = Callable[[Tensor, Tensor], Tensor]

SEED = st.integers(0, 2**31)
SHAPE = st.sampled_from([(1, 1, 1, 7), (2, 3, 4, 5), (3, 2, 1, 6), (1, 4, 3, 3)])
TEMPERATURE = st.sampled_from([0.5, 1.0, 2.0])
SCALE = st.sampled_from([1e-2, 0.5, 30.0])


def _weighted(loss: Callable[..., Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    return loss(student, teacher, torch.linspace(0.1, 1, student[..., 0].numel()).view(student.shape[:-1]))


# Each reads the last axis of [B, C, H, W] as what it needs: features, four offsets, or four classes.
ALL: dict[str, Loss] = {
    "hidden": distill.hidden,
    "attention": distill.attention,
    "attention, temperature 0.5": partial(distill.attention, temperature=0.5),
    "sigmoid": partial(_weighted, partial(distill.class_logits, softmax=False)),
    "softmax": partial(_weighted, partial(distill.class_logits, softmax=True)),
    "deltas": partial(_weighted, partial(distill.box_deltas, beta=1 / 9)),
    "deltas, beta 0": partial(_weighted, partial(distill.box_deltas, beta=0.0)),
}


def _pair(
    seed: int, shape: tuple[int, ...] = (2, 3, 5, 4), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return student, teacher


def _gradient(loss: Loss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


@given(SEED, SHAPE)
def test_hidden_is_one_minus_pearsons_r(seed: int, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(seed, shape)
    expected = [
        1 - np.corrcoef(student[:, channel].flatten(), teacher[:, channel].flatten())[0, 1]
        for channel in range(shape[1])
    ]
    assert distill.hidden(student, teacher).item() == pytest.approx(np.mean(expected), abs=1e-9)


@given(SEED, SCALE, st.floats(-10, 10))
def test_hidden_ignores_scale_and_shift_of_each_channel(seed: int, scale: float, shift: float) -> None:
    student, teacher = _pair(seed)
    scales = scale * torch.tensor([1.0, 2.0, 5.0])[:, None, None]
    moved = student * scales + shift * torch.tensor([1.0, -2.0, 3.0])[:, None, None]
    torch.testing.assert_close(distill.hidden(moved, teacher), distill.hidden(student, teacher))
    value, gradient = _gradient(distill.hidden, moved, student)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-9


def test_hidden_of_a_channel_that_does_not_vary() -> None:
    student, teacher = _pair(0)
    student[:, 0] = 3.0
    one, _ = _gradient(distill.hidden, student[:, :1], teacher[:, :1])
    both, gradient = _gradient(distill.hidden, student[:, :1], torch.ones_like(teacher[:, :1]))
    assert one.item() == pytest.approx(0.5)
    assert both.item() == 0
    assert (gradient == 0).all()


@given(SEED, SHAPE, st.integers(1, 3), TEMPERATURE)
def test_attention_is_its_definition(seed: int, shape: tuple[int, ...], width: int, temperature: float) -> None:
    student, _ = _pair(seed, shape)
    teacher, _ = _pair(seed + 1, (shape[0], width, *shape[2:]))
    total = 0.0
    for of_student, of_teacher in zip(student.numpy(), teacher.numpy(), strict=True):
        weights = [
            np.exp(_standardised((features**2).mean(0).flatten()) / temperature)
            for features in (of_student, of_teacher)
        ]
        p_s, p_t = (weight / weight.sum() for weight in weights)
        total += temperature**2 * sum(t * math.log(t / s) for s, t in zip(p_s, p_t, strict=True))
    found = distill.attention(student, teacher, temperature)
    assert found.item() == pytest.approx(total / shape[0], abs=1e-6)


@given(SEED, st.sampled_from([1e-4, 1e-2, 30.0, 1e4]))
def test_attention_ignores_the_scale_of_the_features(seed: int, scale: float) -> None:
    for student, teacher in (_pair(seed), _pair(seed, dtype=torch.float32)):
        expected = distill.attention(student, teacher)
        for sign in (1, -1):
            torch.testing.assert_close(distill.attention(sign * scale * student, teacher), expected)
            torch.testing.assert_close(distill.attention(student, sign * scale * teacher), expected)


def test_attention_by_hand() -> None:
    # Energies 1 and 9, and 9 and 1, standardise to -1 and 1, and 1 and -1.
    student, teacher = torch.tensor([[[[1.0, -3.0]]]]), torch.tensor([[[[3.0, 1.0]], [[-3.0, 1.0]]]])
    high = 1 / (1 + math.exp(-2))
    assert distill.attention(student, teacher).item() == pytest.approx(2 * (2 * high - 1))
    high = 1 / (1 + math.exp(-1))
    assert distill.attention(student, teacher, 2.0).item() == pytest.approx(4 * (2 * high - 1))


@given(SEED, st.sampled_from([(6,), (2, 3)]), st.sampled_from([0.1, 2.0, 8.0]))
def test_sigmoid_logits_are_the_equation(seed: int, shape: tuple[int, ...], size: float) -> None:
    student, teacher = (size * logits for logits in _pair(seed, (*shape, 4)))
    weight = torch.rand(shape, dtype=torch.float64)
    expected = 0.0
    for row_s, row_t, w in zip(
        student.view(-1, 4).tolist(), teacher.view(-1, 4).tolist(), weight.flatten(), strict=True
    ):
        for s, t in zip(row_s, row_t, strict=True):
            r_s, r_t = 1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t))
            entropy = r_t * math.log1p(math.exp(-s)) + (1 - r_t) * math.log1p(math.exp(s))
            expected += w.item() * abs(r_t - r_s) * entropy
    assert distill.class_logits(student, teacher, weight, softmax=False).item() == pytest.approx(expected, rel=1e-6)


@given(SEED)
def test_sigmoid_logits_are_quality_focal_loss_gradient_included(seed: int) -> None:
    # Every prior positive for the only class, with the teacher's probability for quality.
    student, teacher = _pair(seed, (6, 1))
    one, labels = torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    # Apart, as `quality_focal` has no slope where they meet.
    student = torch.where((student - teacher).abs() < 0.01, teacher + 0.05, student)
    quality = teacher.sigmoid()[:, 0]
    expected = _gradient(
        lambda s, _: classification.quality_focal(s, labels, labels == 0, one, quality=quality, gamma=1.0),
        student,
        teacher,
    )
    torch.testing.assert_close(
        _gradient(lambda s, t: distill.class_logits(s, t, one, softmax=False), student, teacher), expected
    )


@given(SEED, st.sampled_from([(6,), (2, 3)]))
def test_softmax_logits_are_the_divergence(seed: int, shape: tuple[int, ...]) -> None:
    student, teacher = _pair(seed, (*shape, 4))
    weight = torch.rand(shape, dtype=torch.float64)
    p_s, p_t = (np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True) for logits in (student, teacher))
    expected = (weight.numpy() * (p_t * np.log(p_t / p_s)).sum(-1)).sum()
    found = distill.class_logits(student, teacher, weight, softmax=True)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    shifted = distill.class_logits(student + 3, teacher - 5, weight, softmax=True)
    torch.testing.assert_close(shifted, found)


@given(SEED, st.sampled_from([0.0, 0.5, 2.0]))
def test_deltas_are_weighted_smooth_l1(seed: int, beta: float) -> None:
    student, teacher = _pair(seed, (2, 3, 4))
    weight = torch.rand(2, 3, dtype=torch.float64)
    expected = 0.0
    for row_s, row_t, w in zip(
        student.view(-1, 4).tolist(), teacher.view(-1, 4).tolist(), weight.flatten(), strict=True
    ):
        for distance in (abs(s - t) for s, t in zip(row_s, row_t, strict=True)):
            expected += w.item() * (distance**2 / (2 * beta) if distance < beta else distance - beta / 2)
    assert distill.box_deltas(student, teacher, weight, beta=beta).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ALL)
@given(seed=SEED, size=SCALE)
def test_an_equal_student_costs_nothing_and_learns_nothing(name: str, seed: int, size: float) -> None:
    student, _ = _pair(seed)
    value, gradient = _gradient(ALL[name], student * size, student * size)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", ALL)
@given(seed=SEED)
def test_a_different_student_costs_something_and_learns(name: str, seed: int) -> None:
    student, teacher = _pair(seed)
    value, gradient = _gradient(ALL[name], student, teacher)
    assert value > 0
    assert (gradient != 0).any()
    assert ALL[name](student - 1e-4 * gradient, teacher) < value


@pytest.mark.parametrize("name", ALL)
def test_the_teacher_gets_no_gradient(name: str) -> None:
    student, teacher = _pair(0)
    student.requires_grad_()
    teacher.requires_grad_()
    ALL[name](student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [partial(distill.class_logits, softmax=False), partial(distill.box_deltas, beta=1.0)])
def test_the_weight_gets_no_gradient(loss: Callable[..., Tensor]) -> None:
    student, teacher = _pair(0)
    weight = torch.ones(2, 3, 5, requires_grad=True)
    loss(student.requires_grad_(), teacher, weight).backward()
    assert weight.grad is None


@pytest.mark.parametrize(
    "loss",
    [
        partial(distill.class_logits, softmax=False),
        partial(distill.class_logits, softmax=True),
        partial(distill.box_deltas, beta=1 / 9),
    ],
)
def test_weight_zero_leaves_a_prior_out(loss: Callable[..., Tensor]) -> None:
    student, teacher = _pair(0, (2, 3, 4))
    weight = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 1.0]], dtype=torch.float64)
    value, gradient = _gradient(lambda s, t: loss(s, t, weight), student, teacher)
    torch.testing.assert_close(value, loss(student[weight > 0], teacher[weight > 0], weight[weight > 0]))
    assert (gradient[weight == 0] == 0).all()
    assert (gradient[weight > 0] != 0).any(-1).all()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=15)
@given(seed=SEED)
def test_gradient(name: str, seed: int) -> None:
    student, teacher = _pair(seed, (2, 2, 2, 4))
    # Away from the kinks, which lie where the networks agree.
    student = torch.where((student - teacher).abs() < 0.01, teacher + 0.05, student).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ALL[name](x, teacher), (student,))


RAMP = torch.arange(24.0).view(2, 3, 1, 4)
EXTREMES = {
    "zero": RAMP * 0,
    "constant": RAMP * 0 + 1000.3,
    "nearly constant": RAMP * 1e-4 + 1000,
    "one channel": torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand_as(RAMP),
    "one cell": torch.tensor([1.0, 0.0, 0.0, 0.0]).expand_as(RAMP),
    "tiny": RAMP * 1e-20,
    "subnormal": RAMP * 1e-40,
    "huge": (RAMP - 12) * 5e3,
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("student", EXTREMES)
def test_extreme_input_has_finite_losses_and_gradients(name: str, student: str) -> None:
    for teacher in EXTREMES.values():
        value, gradient = _gradient(ALL[name], EXTREMES[student], teacher)
        assert value.isfinite()
        assert value >= -1e-5
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["hidden", "attention"])
def test_a_single_cell_costs_nothing(name: str) -> None:
    student, teacher = _pair(0, (1, 3, 1, 1), torch.float32)
    value, gradient = _gradient(ALL[name], student, teacher)
    assert value.item() == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher = (100 * features.to(dtype) for features in _pair(0))
    value, gradient = _gradient(ALL[name], student, teacher)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, ALL[name](student.float(), teacher.float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_float64_stays(name: str) -> None:
    assert ALL[name](*_pair(0)).dtype == torch.float64


@pytest.mark.parametrize("softmax", [False, True])
def test_no_priors_cost_nothing(softmax: bool) -> None:
    nothing = torch.zeros(2, 0, 4)
    assert distill.class_logits(nothing, nothing, nothing[..., 0], softmax=softmax).item() == 0
    assert distill.box_deltas(nothing, nothing, nothing[..., 0], beta=1.0).item() == 0
