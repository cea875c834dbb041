"""Box outputs of one network for another: the same features give the same boxes."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector import recipes
from detector.geometry import codec, priors
from detector.model import box_outputs
from detector.model.box_outputs import Offsets

STRIDE = 8.0


def some(count: int, generator: torch.Generator) -> Offsets:
    sides = 0.5 + 11 * torch.rand(count, 2, generator=generator)
    first, second, third, fourth = (0.1 + torch.rand(4, generator=generator)).tolist()
    return Offsets(std=(first, second, third, fourth), priors_wh=tuple((wide, high) for wide, high in sides.tolist()))


def around(centre: tuple[float, float], offsets: Offsets) -> torch.Tensor:
    """Priors [k, 4] of a cell."""
    half = STRIDE * torch.tensor(offsets.priors_wh, dtype=torch.float64) / 2
    middle = torch.tensor(centre, dtype=torch.float64)
    return torch.cat((middle - half, middle + half), dim=1)


@given(st.integers(1, 4), st.integers(0, 9999))
def test_the_same_features_give_the_same_boxes(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    theirs, ours = some(count, generator), some(count, generator)
    weight, features = (0.1 * torch.randn(*size, generator=generator) for size in ((4 * count, 5), (5,)))
    bias = 0.1 * torch.randn(4 * count, generator=generator)

    def boxes(weight: torch.Tensor, bias: torch.Tensor, offsets: Offsets) -> torch.Tensor:
        rows = (weight.double() @ features.double() + bias.double()).view(-1, 4)
        return codec.decode(rows, around((50.0, 70.0), offsets), offsets.std)

    new = [box_outputs.rewritten(rows, theirs, ours, refines=False) for rows in (weight, bias)]
    torch.testing.assert_close(boxes(*new, ours), boxes(weight, bias, theirs), rtol=1e-4, atol=1e-3)


@given(st.integers(1, 4), st.integers(0, 9999))
def test_a_head_that_refines_boxes_has_no_priors(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    theirs, ours = some(count, generator), some(count, generator)
    rows = torch.arange(4.0 * count) + 1
    new = box_outputs.rewritten(rows, theirs, ours, refines=True)
    torch.testing.assert_close(
        new.view(-1, 4) * torch.tensor(ours.std), rows.view(-1, 4) * torch.tensor(theirs.std), rtol=1e-5, atol=1e-6
    )


def test_nothing_changes_where_nothing_differs() -> None:
    rows, same = torch.randn(4, 3, dtype=torch.float16), box_outputs.of_model(recipes.small().model)
    assert box_outputs.rewritten(rows, same, same, refines=False) is rows


@pytest.mark.parametrize("recipe", ["small", "retinanet", "localizer"])
def test_priors_are_listed_in_the_order_of_the_outputs(recipe: Any) -> None:
    config = recipes.make(recipe).model
    found = torch.tensor(box_outputs.of_model(config).priors_wh)
    if config.neck == "pool":
        assert found.tolist() == [[1, 1]]
        return
    boxes = priors.make((8, 8), [8], config.priors.scales, config.priors.ratios, anchoring="centre").boxes
    torch.testing.assert_close(found, (boxes[:, 2:] - boxes[:, :2]) / 8)
