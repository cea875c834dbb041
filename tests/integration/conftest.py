from pathlib import Path

import pytest

from tests.integration import shapes

# The smallest network there is: what is tested here is the path, not the accuracy.
TINY = [
    *("--image-size", "64", "--batch-size", "2"),
    *(
        "--set",
        "model.priors.scales=[2.0]",
        "--set",
        "model.pyramid.width=16",
        "--set",
        "model.heads.classification.tower.width=16",
        "--set",
        "model.heads.box.tower.width=16",
        "--set",
        "precision=float32",  # what a probe would choose depends on the machine, and results on the choice
    ),
]
# Long enough for a hit or two, so that scores are not all zero.
OF_RUN_FOLDER = ["--steps", "40", "--lr", "0.001", "--set", "data.crops.share=0", "--set", "length.evaluations=2"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the plain layout; no test changes it."""
    folder = tmp_path_factory.mktemp("shapes")
    for name, count, seed in (("train", 5, 1), ("val", 3, 2), ("test", 3, 3)):
        shapes.write(shapes.plain(folder, name), count=count, seed=seed)
    return folder


@pytest.fixture(scope="session")
def run_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run."""
    from detector.cli import train

    out = tmp_path_factory.mktemp("run") / "tiny"
    assert train([str(data), *OF_RUN_FOLDER, "--out", str(out), *TINY]) == 0
    return out
