"""The losses of short trainings are those of the first, plain implementation: no speed-up changed the mathematics.

`golden_trajectory.json` was written by this file as a program at commit 7950ec9, before norms were folded, matching and
losses rewritten with fewer operations, and weights averaged all at once. A change of the mathematics on purpose writes
it anew, and says so.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from detector import config_file, recipes
from detector.recipes import RecipeName
from detector.train.learner import Learner
from tests.unit.train import make

GOLDEN = Path(__file__).with_name("golden_trajectory.json")
RECIPES: tuple[RecipeName, ...] = ("small", "standard", "retinanet")
STEPS = 12
TOLERANCE = 1e-6
NARROW = {
    "model.backbone": "resnet18",
    "model.pyramid.width": 16,
    "model.heads.box.tower.width": 16,
    "model.heads.classification.tower.width": 16,
    "precision": "float32",
    "optim.warmup_steps": 4,
}


def losses(recipe: RecipeName) -> list[list[float]]:
    """Terms of each step; the last line is a sum over the averaged weights."""
    config = config_file.override(recipes.make(recipe), NARROW)
    model = make.model(config).double()  # else sums in another order would soon come to differ
    learner = Learner(model, config, dtype=torch.float32)
    batches = [make.batch(2, seed=seed) for seed in range(3)]
    steps = [learner.learn(batches[step % 3], step / STEPS).losses.values.double().tolist() for step in range(STEPS)]
    return [*steps, [sum(parameter.double().abs().sum().item() for parameter in learner.kept.parameters())]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_losses_are_those_of_the_plain_implementation(recipe: RecipeName) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[recipe]
    found = losses(recipe)
    assert len(found) == len(golden) == STEPS + 1
    for step, (terms, expected) in enumerate(zip(found, golden, strict=True)):
        assert terms == pytest.approx(expected, rel=TOLERANCE), f"step {step}"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({recipe: losses(recipe) for recipe in RECIPES}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{GOLDEN}\n")
