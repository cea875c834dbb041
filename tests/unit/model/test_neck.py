"""The pooled trunk of the localizer; the pyramid has its tests in test_network."""

import torch

from detector import recipes
from detector.geometry import codec
from detector.model import detector as network
from detector.model.neck import PooledNeck
from detector.types import Preprocess

CANVAS = (64, 96)


def test_the_pooled_neck_is_the_mean_and_its_prior_the_canvas() -> None:
    neck = PooledNeck([8, 16])
    last = torch.randn(2, 16, 2, 3)
    (pooled,) = neck([torch.randn(2, 8, 4, 6), last])
    torch.testing.assert_close(pooled[:, :, 0, 0], last.flatten(2).mean(dim=2))
    priors = neck.priors(CANVAS)
    assert priors.boxes.tolist() == [[0, 0, 96, 64]]
    assert priors.level_sizes == (1,)


def test_the_heads_of_the_recipe_are_one_fully_connected_layer_each() -> None:
    model = network.build(recipes.localizer(), num_classes=5, preprocess=Preprocess(canvas_hw=CANVAS))
    shapes = {name: tuple(weight.shape) for name, weight in model.heads.named_parameters()}
    assert shapes == {
        "classification.output.weight": (5, 512, 1, 1),
        "classification.output.bias": (5,),
        "box.output.weight": (4, 512, 1, 1),
        "box.output.bias": (4,),
    }
    prediction = model.eval()(torch.zeros(2, 3, *CANVAS, dtype=torch.uint8))
    assert prediction.logits.shape == (2, 1, 5)
    assert prediction.deltas.shape == (2, 1, 4)


def test_any_box_of_the_image_can_be_said() -> None:
    priors, std = PooledNeck([8]).priors(CANVAS).boxes, recipes.localizer().model.delta_std
    wanted = torch.tensor([[0, 0, 96, 64], [95, 63, 96, 64], [0, 63, 96, 64], [10.5, 20.25, 11.5, 60]])
    found = codec.decode(codec.encode(wanted, priors, std), priors, std)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)
