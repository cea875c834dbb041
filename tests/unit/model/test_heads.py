"""One head: its rows, its starting values, and the heads that users bring."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from detector.config import TowerConfig
from detector.errors import ConfigError
from detector.model import heads
from detector.model.heads import CustomHead, DenseHead, HeadShape
from tests.unit.train import make

SHAPE = HeadShape(in_channels=8, upstream_channels=0, priors_per_cell=2)
TOWER = TowerConfig(depth=2, width=16)


def maps(channels: int = 8) -> Tensor:
    return torch.randn(3, channels, 4, 5)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("depth", [0, 2])
def test_a_row_for_each_prior_and_the_towers_features(depth: int, kernel: int) -> None:
    shape = HeadShape(in_channels=8, upstream_channels=0, priors_per_cell=2, kernel=kernel)
    head = DenseHead(shape, TowerConfig(depth=depth, width=16), outputs=5)
    rows, features = head(maps())
    assert rows.shape == (3, 4 * 5 * 2, 5)
    assert features.shape == (3, head.width, 4, 5)
    assert head.width == (16 if depth else 8)


def test_rows_go_cell_by_cell_and_prior_by_prior() -> None:
    head = DenseHead(SHAPE, TowerConfig(depth=0), outputs=3)
    x = maps()
    rows, _ = head(x)
    plain = head.output(x)
    for row, column, prior in ((0, 0, 0), (0, 1, 0), (2, 3, 1), (3, 4, 1)):
        mine = rows[:, (row * 5 + column) * 2 + prior]
        torch.testing.assert_close(mine, plain[:, prior * 3 : prior * 3 + 3, row, column])


def test_a_head_that_reads_another_needs_its_features() -> None:
    shape = HeadShape(in_channels=8, upstream_channels=6, priors_per_cell=2)
    head = DenseHead(shape, TOWER, outputs=3)
    x, above = maps(), maps(6).requires_grad_()
    rows, _ = head(x, above)
    (gradient,) = torch.autograd.grad(rows.square().sum(), above)
    assert (gradient != 0).any()
    with pytest.raises(AssertionError):
        head(x)


def test_each_output_starts_at_its_bias_at_every_prior() -> None:
    head = DenseHead(SHAPE, TOWER, outputs=3, bias=[1.0, -2.0, 0.5])
    rows, _ = head(torch.zeros(1, 8, 2, 2))
    torch.testing.assert_close(rows, torch.tensor([1.0, -2.0, 0.5]).expand(1, 8, 3))


def test_class_biases_are_the_class_prior() -> None:
    sigmoid = torch.tensor(heads.sigmoid_bias(3, 0.02)).sigmoid()
    torch.testing.assert_close(sigmoid, torch.full((3,), 0.02))
    softmax = torch.tensor(heads.softmax_bias(3, 0.02)).softmax(-1)
    torch.testing.assert_close(softmax[-1], torch.tensor(0.98))
    torch.testing.assert_close(softmax[:3].sum(), torch.tensor(0.02))


@pytest.mark.parametrize("norm", ["group", "none"])
def test_reset_gives_new_weights_and_the_old_start(norm: str) -> None:
    shape = HeadShape(in_channels=8, upstream_channels=6, priors_per_cell=2)
    tower = TowerConfig(depth=2, width=16, norm=norm)  # pyright: ignore[reportArgumentType]
    head = DenseHead(shape, tower, outputs=3, bias=heads.sigmoid_bias(3, 0.02))
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    head.reset()
    for name, value in head.state_dict().items():
        if value.ndim > 1:
            assert not torch.equal(value, before[name]), name
            assert 0.5 < value.std() / before[name].std() < 2, name
        else:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("width", "groups"), [(8, 2), (12, 2), (16, 4), (20, 4), (96, 16), (256, 32), (9, 1)])
def test_groups_of_a_norm_divide_the_width_and_are_four_channels_at_least(width: int, groups: int) -> None:
    head = DenseHead(SHAPE, TowerConfig(depth=1, width=width), outputs=1)
    norms = [module for module in head.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [groups]


# Heads that users bring


class Mine(CustomHead):
    outputs = 5


class WithBatchNorm(CustomHead):
    def __init__(self, shape: HeadShape, config: TowerConfig) -> None:
        super().__init__(shape, config)
        self.extra = nn.Sequential(nn.Identity(), nn.BatchNorm2d(4))


NO_HEAD = nn.Linear


def test_a_custom_head_is_found_in_a_module_that_was_imported() -> None:
    assert heads.custom_class(f"{__name__}:Mine") is Mine
    rows, _ = Mine(SHAPE, TOWER)(maps())
    assert rows.shape[-1] == 5


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nowhere_at_all:Mine", "was not imported; add --import nowhere_at_all"),
        ("turtle:Turtle", "was not imported; add --import turtle"),
        ("Mine", "is not named as module:Class"),
        (":Mine", "was not imported; add --import MODULE"),
        (f"{__name__}:Yours", "has no class 'Yours' derived from CustomHead"),
        (f"{__name__}:NO_HEAD", "has no class 'NO_HEAD' derived from CustomHead"),
        (f"{__name__}:TOWER", "has no class 'TOWER' derived from CustomHead"),
        (__name__, "is not named as module:Class"),
    ],
)
def test_a_custom_head_that_cannot_be_had(factory: str, message: str) -> None:
    modules = set(sys.modules)
    with pytest.raises(ConfigError, match=message):
        heads.custom_class(factory)
    assert set(sys.modules) == modules  # a configuration imports nothing


def with_custom(name: str) -> dict[str, object]:
    tower = {"depth": 1, "width": 16}
    return {
        "model.heads": [
            {"name": "classification", "kind": "classification", "tower": tower},
            {"name": "box", "kind": "box", "tower": tower},
            {"name": "mine", "kind": "custom", "factory": f"{__name__}:{name}", "tower": tower},
        ]
    }


def test_batch_norm_in_a_head_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.heads\.mine: extra\.1 is a BatchNorm2d; use nn\.GroupNorm"):
        make.model(make.config(with_custom("WithBatchNorm")))
    make.model(make.config(with_custom("Mine")))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_every_norm_that_keeps_statistics_is_refused(norm: Callable[[int], nn.Module]) -> None:
    with pytest.raises(ConfigError, match=r"model\.heads\.a: 0\.b is a"):
        heads.require_no_batch_norm(nn.Sequential(nn.ModuleDict({"b": norm(4)})), "a")


def test_a_custom_head_of_a_module_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("passing_by")
    module.Mine = Mine  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "passing_by", module)
    assert heads.custom_class("passing_by:Mine") is Mine
    monkeypatch.delitem(sys.modules, "passing_by")
    with pytest.raises(ConfigError, match="was not imported"):
        heads.custom_class("passing_by:Mine")
