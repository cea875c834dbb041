"""Average of the weights along training.

The decay follows a power of the step, beta_t = (1 - 1/t)^(gamma + 1), so that the average always spans the same share
of the run so far and needs no knowledge of its length (Karras et al. 2024, "Analyzing and Improving the Training
Dynamics of Diffusion Models", section 3.1).
"""

import copy
import math

import torch
from torch import Tensor

from detector.model.detector import DetectionModel


def gamma_of_width(width: float) -> float:
    """Exponent whose averaging profile has the relative standard deviation `width`, by bisection."""

    def width_of(gamma: float) -> float:
        return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))

    low, high = 0.0, 1e6
    if not width_of(high) < width < width_of(low):
        raise ValueError(f"an average cannot be {width} wide; possible is up to {width_of(low):.3f}")
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if width_of(middle) > width else (low, middle)
    return high


def decay(step: int, gamma: float) -> float:
    """Share of the old average that stays at step `step`, counted from 1."""
    return (1 - 1 / step) ** (gamma + 1)


class AveragedModel:
    """A second model that holds the running average of the first; norm statistics are averaged too."""

    def __init__(self, model: DetectionModel, *, width: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self._gamma = gamma_of_width(width)
        self.starts: dict[str, int] = {}
        """Step at which the tensors of a prefix were given new values."""

    @torch.no_grad()
    def update(self, model: DetectionModel, step: int) -> None:
        """Take in the weights after `step` steps, counted from 1."""
        averages = self.model.state_dict()
        together: dict[float, tuple[list[Tensor], list[Tensor]]] = {}  # a network has hundreds of small tensors
        for name, value in model.state_dict().items():
            average = averages[name]
            if average.is_floating_point():
                share = 1 - decay(step - self._start_of(name), self._gamma)
                mine, theirs = together.setdefault(share, ([], []))
                mine.append(average)
                theirs.append(value)
            else:
                average.copy_(value)
        for share, (mine, theirs) in together.items():
            torch._foreach_lerp_(mine, theirs, share)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    def restart(self, model: DetectionModel, prefix: str, step: int) -> None:
        """Forget the past of the tensors whose names begin so: after `step` steps they were given new values."""
        self.starts[prefix] = step
        fresh = {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}
        self.model.load_state_dict(fresh, strict=False)

    def _start_of(self, name: str) -> int:
        return max((start for prefix, start in self.starts.items() if name.startswith(prefix)), default=0)
