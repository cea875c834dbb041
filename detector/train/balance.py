"""How the branches of a multi-task network share one trunk.

A rule works at one of two places: on the factors of the losses (`weights`, moved by `observe`), or on the gradients
where they meet at the trunk (`combine`, from their inner products alone). Each of the latter is scaled to stand in for
the plain sum of the gradients, not for their mean.

A branch is absent while its gradient is zero: its loss is off, or the batch holds nothing for it. The others are then
balanced as if it did not exist, and its own coefficient is 1. Below, A is the number of branches that are present.
"""

from itertools import product
from typing import NamedTuple, assert_never

import torch
from torch import Tensor, nn

from detector.config import BalanceConfig


class Balancer(nn.Module):
    """Every branch as it is; the base of all rules."""

    acts_on_gradients: bool = False
    ones: Tensor

    def __init__(self, num_branches: int) -> None:
        super().__init__()
        self.register_buffer("ones", torch.ones(num_branches), persistent=False)

    def weights(self) -> Tensor:
        """Factor of each branch's loss; may carry gradient to learned parameters."""
        return self.ones.clone()

    def penalty(self) -> Tensor:
        """What the rule itself adds to the total loss."""
        return self.ones.new_zeros(())

    def combine(self, gram: Tensor) -> Tensor:
        """Coefficients of the gradients at the trunk, from their inner products; never waits for the device."""
        return torch.ones_like(gram[0])

    def observe(self, losses: Tensor, gram: Tensor, epoch: float) -> None:
        """Take in a finished step.

        Args:
            losses: Of the branches, before any weight that changes in a run; NaN of one that did not run.
            gram: Inner products of the gradients of the weighted losses.
            epoch: Epochs done so far.
        """

    def restart(self) -> None:
        """Forget how the losses went: a stage begins, with other losses or other parts that learn."""


class Uncertainty(Balancer):
    """Sum of L_k / (2 exp(s_k)) + s_k / 2, with s learned in [-3, 3] (Kendall et al. 2018, eq. 7; as in LibMTL)."""

    present: Tensor

    def __init__(self, num_branches: int) -> None:
        super().__init__(num_branches)
        self.log_variance = nn.Parameter(torch.full((num_branches,), -0.5))
        self.register_buffer("present", torch.ones(num_branches))

    def weights(self) -> Tensor:
        return 0.5 * torch.exp(-self.log_variance)

    def penalty(self) -> Tensor:
        return 0.5 * (self.present * self.log_variance).sum()

    @torch.no_grad()
    def observe(self, losses: Tensor, gram: Tensor, epoch: float) -> None:
        # Not a clamp in `weights`: that passes no gradient at its limits, and s would never return from them.
        self.log_variance.clamp_(-3, 3)
        # The penalty alone would drive the weight of a loss that is off to its upper limit.
        self.present.copy_(losses > 0)


class DynamicWeightAverage(Balancer):
    """Weight K softmax(r / T), r_k = L_k(t-1) / L_k(t-2) over the means of epochs (Liu et al. 2019, eq. 7).

    A branch without a ratio has weight 1: every branch in the first two epochs, later one whose loss was off.
    """

    total: Tensor
    count: Tensor
    previous: Tensor
    before_previous: Tensor
    epochs_closed: Tensor

    def __init__(self, num_branches: int, *, temperature: float) -> None:
        super().__init__(num_branches)
        self._temperature = temperature
        for name in ("total", "count", "previous", "before_previous"):
            self.register_buffer(name, torch.zeros(num_branches))
        self.register_buffer("epochs_closed", torch.zeros(()))

    def restart(self) -> None:
        for history in (self.total, self.count, self.previous, self.before_previous):
            history.zero_()

    def weights(self) -> Tensor:
        known = (self.previous > 0) & (self.before_previous > 0)
        ratio = torch.where(known, self.previous / self.before_previous, 0.0)
        share = torch.where(known, torch.exp((ratio - ratio.max()) / self._temperature), 0.0)
        return torch.where(known, known.sum() * share / share.sum(), 1.0)

    @torch.no_grad()
    def observe(self, losses: Tensor, gram: Tensor, epoch: float) -> None:
        finite = torch.isfinite(losses)
        self.total += torch.where(finite, losses, 0.0)
        self.count += finite
        # Steps over steps per epoch may miss a whole number by rounding.
        epochs_done = int(epoch + 1e-6)
        closes = self.epochs_closed < epochs_done
        mean = self.total / self.count.clamp(min=1)
        self.before_previous.copy_(torch.where(closes, self.previous, self.before_previous))
        self.previous.copy_(torch.where(closes, mean, self.previous))
        self.total.copy_(torch.where(closes, 0.0, self.total))
        self.count.copy_(torch.where(closes, 0.0, self.count))
        self.epochs_closed.clamp_(min=epochs_done)


class GradNorm(Balancer):
    """Weights under which gradient norms follow the inverse training rates (Chen et al. 2018, eq. 2), summing to K.

    One step on the weights per step of the network. The objective is divided by the mean norm, so that the rate does
    not depend on the scale of the gradients.
    """

    current: Tensor
    initial_losses: Tensor

    def __init__(self, num_branches: int, *, lr: float, restoring: float) -> None:
        super().__init__(num_branches)
        self._lr = lr
        self._restoring = restoring
        self.register_buffer("current", torch.ones(num_branches))
        self.register_buffer("initial_losses", torch.zeros(num_branches))

    def restart(self) -> None:
        self.initial_losses.zero_()

    def weights(self) -> Tensor:
        return self.current.clone()

    @torch.no_grad()
    def observe(self, losses: Tensor, gram: Tensor, epoch: float) -> None:
        norms = gram.diagonal().clamp(min=0).sqrt()
        present = torch.isfinite(losses) & torch.isfinite(norms) & (losses > 0) & (norms > 0)
        self.initial_losses.copy_(torch.where(present & (self.initial_losses == 0), losses, self.initial_losses))
        rate = losses / self.initial_losses
        target = (rate / _mean(rate, present)) ** self._restoring
        norms = norms / _mean(norms, present)
        gradient = torch.sign(norms - target) * norms / self.current
        stepped = (self.current - self._lr * gradient).clamp(min=0.01)
        # The present share out what the absent leave of K.
        left = len(self.current) - torch.where(present, 0.0, self.current).sum()
        scaled = stepped * (left / present.sum() / _mean(stepped, present))
        self.current.copy_(torch.where(present, scaled, self.current))


class ImpartialGradient(Balancer):
    """Equal projections of the sum on every unit gradient (IMTL-G; Liu et al. 2021, eq. 6). Coefficients sum to A.

    They may be negative for three branches and more. Where their sum is not clearly positive, dividing by it would turn
    the step uphill or make it huge; the unit gradients are added up instead. For two branches the rules are the same.
    """

    acts_on_gradients = True

    def combine(self, gram: Tensor) -> Tensor:
        geometry = _geometry(gram)
        matrix = _submatrix(geometry, geometry.present)
        along_units = _solve(matrix, geometry.present.to(matrix.dtype).unsqueeze(-1)).squeeze(-1)
        shares = along_units * geometry.inverse_norms
        usable = shares.sum() > 1e-3 * shares.abs().sum()
        shares = torch.where(usable, shares, geometry.inverse_norms)
        return _finish(geometry, geometry.num_present * shares / shares.sum(), gram.dtype)


class _ConvexCombination(Balancer):
    acts_on_gradients = True
    faces: Tensor  # of the simplex, as sets of corners: bool [2^K - 1, K], the large ones first

    def __init__(self, num_branches: int) -> None:
        super().__init__(num_branches)
        faces = sorted(product([True, False], repeat=num_branches), key=sum, reverse=True)
        self.register_buffer("faces", torch.tensor(faces[:-1]), persistent=False)


class MultipleGradientDescent(_ConvexCombination):
    """A times the shortest convex combination (MGDA-UB; Sener and Koltun 2018, eq. 3). Coefficients sum to A."""

    def combine(self, gram: Tensor) -> Tensor:
        geometry = _geometry(gram)
        flat = torch.zeros_like(geometry.norms)
        along_units = _lowest_on_simplex(geometry, self.faces, slope=flat, radius=torch.ones_like(flat[0]))
        return _finish(geometry, geometry.num_present * along_units * geometry.inverse_norms, gram.dtype)


class ProjectedConflicts(Balancer):
    """Sum of the gradients, each projected off those that it conflicts with (PCGrad; Yu et al. 2020, algorithm 1).

    The order is that of the branches rather than random, which matters for three branches and more.
    """

    acts_on_gradients = True

    def combine(self, gram: Tensor) -> Tensor:
        geometry = _geometry(gram)
        itself = torch.eye(len(gram), dtype=geometry.norms.dtype, device=gram.device)
        projected = itself.clone()  # row i: unit gradient i after its projections, along the unit gradients
        for j in range(len(gram)):
            conflict = (projected * geometry.cosines[j]).sum(dim=1).clamp(max=0)
            projected[:, j] -= conflict * (1 - itself[j])
        return _finish(geometry, (geometry.norms @ projected) * geometry.inverse_norms, gram.dtype)


class ConflictAversion(_ConvexCombination):
    """A times the vector around the mean gradient that helps the worst branch most (CAGrad; Liu et al. 2021, eq. 4).

    It is c times the length of the mean away from it: c = 0 is the plain sum, equal gradients give 1 + c times that.
    """

    def __init__(self, num_branches: int, *, radius: float) -> None:
        super().__init__(num_branches)
        self._radius = radius

    def combine(self, gram: Tensor) -> Tensor:
        geometry = _geometry(gram)
        mean = geometry.norms / geometry.num_present.clamp(min=1)
        radius = self._radius * _length(geometry, mean)
        slope = (geometry.cosines * mean).sum(dim=-1)
        along_units = _lowest_on_simplex(geometry, self.faces, slope=slope, radius=radius)
        # Where the combination vanishes its direction is rounding error; the step then stays near the mean.
        length = _length(geometry, along_units).clamp(min=torch.finfo(gram.dtype).eps ** 0.5 * along_units.sum())
        towards = along_units * geometry.inverse_norms * (radius / length)
        return _finish(geometry, 1 + geometry.num_present * towards, gram.dtype)


def make(config: BalanceConfig, num_branches: int) -> Balancer:
    """The rule that `config` names."""
    match config.kind:
        case "fixed":
            return Balancer(num_branches)
        case "uncertainty":
            return Uncertainty(num_branches)
        case "dwa":
            return DynamicWeightAverage(num_branches, temperature=config.temperature)
        case "gradnorm":
            return GradNorm(num_branches, lr=config.lr, restoring=config.restoring)
        case "imtl_g":
            return ImpartialGradient(num_branches)
        case "mgda":
            return MultipleGradientDescent(num_branches)
        case "pcgrad":
            return ProjectedConflicts(num_branches)
        case "cagrad":
            return ConflictAversion(num_branches, radius=config.conflict_aversion)
        case _:
            assert_never(config.kind)


class _Geometry(NamedTuple):
    """Gradients as lengths and angles, in float64 and free of their common scale; absent branches hold zeros."""

    norms: Tensor  # [K], the largest is 1
    inverse_norms: Tensor  # [K]
    cosines: Tensor  # [K, K]
    present: Tensor  # bool [K]
    num_present: Tensor  # []
    ridge: float  # accuracy of the cosines


def _geometry(gram: Tensor) -> _Geometry:
    norms = gram.double().diagonal().clamp(min=0).sqrt()
    # A quotient of two norms must fit into float32.
    present = norms > 1e-18 * norms.max()
    inverse = torch.where(present, 1 / norms, 0.0)
    return _Geometry(
        norms=torch.where(present, norms / norms.max(), 0.0),
        inverse_norms=inverse * norms.max(),
        cosines=(gram * inverse.unsqueeze(1) * inverse).clamp(-1, 1),
        present=present,
        num_present=present.sum(),
        ridge=8 * torch.finfo(gram.dtype).eps,
    )


def _finish(geometry: _Geometry, coefficients: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where(geometry.present, coefficients, 1.0).to(dtype)


def _length(geometry: _Geometry, along_units: Tensor) -> Tensor:
    """Length of the vectors [..., K] that are given as parts along the unit gradients."""
    product = (along_units.unsqueeze(-1) * geometry.cosines * along_units.unsqueeze(-2)).sum(dim=(-2, -1))
    return product.clamp(min=0).sqrt()


def _mean(values: Tensor, present: Tensor) -> Tensor:
    return torch.where(present, values, 0.0).sum() / present.sum()


def _submatrix(geometry: _Geometry, kept: Tensor) -> Tensor:
    """Cosines among the `kept` [..., K] branches and the identity among the others; invertible."""
    pairs = kept.unsqueeze(-1) & kept.unsqueeze(-2)
    matrix = torch.where(pairs, geometry.cosines, 0.0)
    return matrix + torch.diag_embed(geometry.ridge + (~kept).to(matrix.dtype))


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Gauss-Jordan elimination for positive matrices; those of `torch.linalg` may wait for the device."""
    size = matrix.shape[-1]
    rows = torch.cat([matrix, right], dim=-1)
    for k in range(size):
        pivot = rows[..., k : k + 1, :] / rows[..., k : k + 1, k : k + 1]
        rows = rows - rows[..., :, k : k + 1] * pivot
        rows[..., k : k + 1, :] = pivot
    return rows[..., size:]


def _lowest_on_simplex(geometry: _Geometry, faces: Tensor, *, slope: Tensor, radius: Tensor) -> Tensor:
    """Least slope . b + radius |sum_k b_k u_k| over convex combinations, b_k the part along the unit gradient u_k.

    Exact: the lowest point is stationary in the plane of some face, where Lagrange's conditions have a closed form, and
    a handful of branches has few faces. Points outside their face are moved back onto it, which leaves them candidates.
    """
    kept = faces & geometry.present
    ones = torch.where(kept, geometry.inverse_norms, 0.0)
    slopes = torch.where(kept, slope, 0.0)
    p, q = _solve(_submatrix(geometry, kept), torch.stack([ones, slopes], dim=-1)).unbind(dim=-1)
    pp, pq, qq = (ones * p).sum(dim=-1), (ones * q).sum(dim=-1), (slopes * q).sum(dim=-1)
    pp = torch.where(pp > 0, pp, 1.0)
    squared = pp * radius**2 - (pp * qq - pq**2)
    step = torch.where(squared > 1e-12 * pp * radius**2, squared.clamp(min=1e-300).rsqrt(), 0.0)
    stationary = p / pp.unsqueeze(-1) + (p * (pq / pp).unsqueeze(-1) - q) * step.unsqueeze(-1)
    inside = stationary.clamp(min=0)
    total = (inside * geometry.inverse_norms).sum(dim=-1, keepdim=True)
    points = inside / torch.where(total > 0, total, 1.0)
    value = (slope * points).sum(dim=-1) + radius * _length(geometry, points)
    value = value.masked_fill(total.squeeze(-1) == 0, torch.inf)
    # Among equals the largest face, so that equal gradients get equal shares.
    lowest = (value <= value.min() + 1e-9 * value.min().abs()).byte().argmax(dim=0, keepdim=True)
    return points.index_select(0, lowest).squeeze(0)
