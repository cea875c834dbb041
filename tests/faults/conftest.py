"""Runs that take a second or two, and faults that strike them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.faults import many
from tests.integration import shapes
from tests.integration.conftest import TINY

ROOT = Path(__file__).parents[2]
STEPS = 14
# Both shapes of batches, three scorings, weights of a balancer, a stage with a head that begins anew.
RUN = [
    *TINY,
    *("--set", "data.crops.share=0.4", "--set", "length.evaluations=3", "--set", "balance.kind=gradnorm"),
    *("--set", "checkpoint.seconds=0"),
    *("--set", 'stages=[{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "reset": ["box"]}]'),
    *("--device", "cpu", "--workers", "0"),
]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    for name, count, seed in (("train", 5, 1), ("val", 2, 2)):
        shapes.write(shapes.plain(folder, name), count=count, seed=seed)
    return folder


def child(
    data: Path, out: Path, *options: str, fault: str = "none", seconds: float = many.PATIENCE, **environment: str
) -> tuple[int, str]:
    """Exit code and what one process said."""
    ended = many.run(
        *("train", str(data), "--out", str(out), *options),
        logs=out,
        size=1,
        faults={0: fault},
        environment=environment,
        seconds=seconds,
    )
    assert ended.codes[0] is not None, f"still running after {seconds:g} seconds: {ended.said[0]}"
    return ended.codes[0], ended.said[0]


def weights_sum(out: Path) -> str:
    return hashlib.sha256((out / "last.safetensors").read_bytes()).hexdigest()


Train = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    code, errors = child(data, out, *steps(STEPS), *RUN)
    assert code == 0, errors
    return out


def steps(count: int) -> Sequence[str]:
    return ("--steps", str(count))
