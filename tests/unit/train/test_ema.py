"""The average is the profile of the paper, and spans the share of the run it was asked to."""

import numpy as np
import pytest
import torch

from detector import config_file, recipes
from detector.model import detector as network
from detector.model.detector import DetectionModel
from detector.train import ema
from detector.types import Preprocess


def small_model() -> DetectionModel:
    tower = {
        f"model.heads.{head}.tower.{key}": value
        for head in ("classification", "box")
        for key, value in (("width", 16), ("depth", 1))
    }
    config = config_file.override(recipes.small(), {"model.pyramid.width": 16, **tower})
    return network.build(config, num_classes=1, preprocess=Preprocess(canvas_hw=(64, 64)))


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_profile_has_the_width_that_was_asked_for(width: float) -> None:
    """The weights that each step ends up with have `width` as standard deviation, relative to the run."""
    gamma = ema.gamma_of_width(width)
    steps = 4000
    share = np.ones(steps)
    for t in range(1, steps + 1):
        beta = ema.decay(t, gamma)
        share[: t - 1] *= beta
        share[t - 1] = 1 - beta
    time = np.arange(1, steps + 1) / steps
    mean = (share * time).sum()
    deviation = np.sqrt((share * (time - mean) ** 2).sum())
    assert share.sum() == pytest.approx(1.0)
    assert deviation == pytest.approx(width, rel=0.02)


def test_a_width_beyond_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.5 wide"):
        ema.gamma_of_width(0.5)


def test_average_follows_weights_and_statistics_and_copies_counters() -> None:
    model = small_model()
    average = ema.AveragedModel(model, width=0.1)
    name, statistic, counter = (
        "heads.box.output.weight",
        "backbone.bn1.running_mean",
        "backbone.bn1.num_batches_tracked",
    )
    expected: dict[str, torch.Tensor] = {}
    for step in range(1, 6):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.copy_(torch.rand_like(value.float()).to(value.dtype) + step)
        average.update(model, step)
        share = 1 - ema.decay(step, ema.gamma_of_width(0.1))
        for key in (name, statistic):
            value = model.state_dict()[key].clone()
            expected[key] = value if step == 1 else torch.lerp(expected[key], value, share)
    state = average.model.state_dict()
    torch.testing.assert_close(state[name], expected[name])
    torch.testing.assert_close(state[statistic], expected[statistic])
    assert state[counter] == model.state_dict()[counter]
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
