"""Measure what it costs that two processes on one CPU train one model.

Three ways take turns, on made batches and without a loader:

    one process     the whole batch on two threads: what the machine does without torchrun
    apart           two processes at a time with one thread and half of the images each, each for itself
    together        the same two by DistributedDataParallel over gloo, agreeing once a step as the training loop does

What `together` takes beyond `apart` is the exchange. Of each way, the median step of all rounds counts.

    OMP_NUM_THREADS=1 python tools/experiments/two_processes.py

It wants a machine with two idle cores, and writes nothing but its answer.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from detector import config_file, recipes
from detector.benchmark import heads
from detector.model import detector as network
from detector.recipes import RecipeName
from detector.train import distributed
from detector.train.agreement import Agreement
from detector.train.clock import Clock
from detector.train.distributed import World
from detector.train.learner import Learner
from detector.train.signals import Requests
from detector.types import Preprocess

Way = Literal["one process", "apart", "together"]
WAYS: tuple[Way, ...] = ("one process", "apart", "together")
WARM_UP = 3  # steps
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    recipe: RecipeName
    image_size: int
    images: int
    """Of a process."""
    steps: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What one process found."""

    steps: list[float]
    agreeing: list[float]
    """Of each step, with the time in which this process waits for the other."""
    bytes: int
    """Of all gradients."""
    all_reduce: float | None
    """Seconds for that many bytes with nothing else to do."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small", choices=recipes.NAMES)
    parser.add_argument("--image-size", type=int, default=320)
    parser.add_argument("--images", type=int, default=4, help="of a process")
    parser.add_argument("--steps", type=int, default=20, help="of a round, after a few that do not count")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--meet", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    settings = Settings(
        recipe=options.recipe,
        image_size=options.image_size,
        images=options.images,
        steps=options.steps,
        rounds=options.rounds,
    )
    if options.work:
        sys.stdout.write(json.dumps(asdict(_work(settings, options.work, options.meet))) + "\n")
        return 0
    found: dict[Way, list[Timed]] = {way: [] for way in WAYS}
    for number in range(settings.rounds):
        for way in WAYS:
            sys.stderr.write(f"round {number + 1} of {settings.rounds}: {way}\n")
            found[way] += _round(settings, way)
    sys.stdout.write(_told(settings, found) + "\n")
    return 0


def _round(settings: Settings, way: Way) -> list[Timed]:
    count = 1 if way == "one process" else 2
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(settings).items()]
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, *options, f"--work={way}", f"--meet={folder}"],
                env=_environment(way, rank, port),
                stdout=subprocess.PIPE,
                text=True,
            )
            for port in [_free_port()]
            for rank in range(count)
        ]
        answers = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{way}: a process failed, see above")
    return [Timed(**json.loads(answer)) for answer in answers]


def _environment(way: Way, rank: int, port: int) -> dict[str, str]:
    threads = "2" if way == "one process" else "1"
    own = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT), "PROCESS": str(rank)}
    if way == "together":
        own |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return own


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _work(settings: Settings, way: Way, meet: Path) -> Timed:
    images = settings.images * (2 if way == "one process" else 1)
    with distributed.joined(torch.device("cpu")) as world:
        learner = _learner(settings, world)
        made = heads.Settings(batch_size=images, image_size=settings.image_size)
        batch = heads.synthetic_batch(made, seed=world.rank)
        agreement = Agreement(world, Clock(), Requests())
        steps: list[float] = []
        agreeing: list[float] = []

        def step() -> None:
            begun = time.perf_counter()
            learner.learn(batch, 0.5)
            learned = time.perf_counter()
            agreement.reach(lambda: False, [], 0)
            steps.append(time.perf_counter() - begun)
            agreeing.append(time.perf_counter() - learned)

        for _ in range(WARM_UP):
            step()
        if way == "apart":
            _wait_for_both(meet, "begun")
        for _ in range(settings.steps):
            step()
        count = sum(p.numel() for p in learner.objective.parameters() if p.requires_grad)
        timed = Timed(
            steps=steps[WARM_UP:], agreeing=agreeing[WARM_UP:], bytes=4 * count, all_reduce=_all_reduce(world, count)
        )
        if way == "apart":
            # The other one's last steps are to be as disturbed as its first.
            (meet / f"done-{os.environ['PROCESS']}").touch()
            while len([*meet.glob("done-*")]) < 2:
                step()
        return timed


def _wait_for_both(meet: Path, name: str) -> None:
    (meet / f"{name}-{os.environ['PROCESS']}").touch()
    while len([*meet.glob(f"{name}-*")]) < 2:
        time.sleep(0.001)


def _all_reduce(world: World, count: int) -> float | None:
    if world.size == 1:
        return None
    gradients, seconds = torch.zeros(count), list[float]()
    for _ in range(7):
        world.highest([0.0])
        begun = time.perf_counter()
        torch.distributed.all_reduce(gradients)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _learner(settings: Settings, world: World) -> Learner:
    changes: dict[str, Any] = {
        "data.image_size": settings.image_size,
        "precision": "float32",
        "model.norm": "frozen",  # the work is to be the same for any number of processes
        "optim.lr": 1e-6,  # the weights are random, and stay finite
    }
    config = config_file.override(recipes.make(settings.recipe), changes)
    torch.manual_seed(0)
    canvas = (settings.image_size, settings.image_size)
    model = network.build(config, num_classes=heads.NUM_CLASSES, preprocess=Preprocess(canvas_hw=canvas))
    return Learner(model, config, dtype=torch.float32, world=world)


def _told(settings: Settings, found: Mapping[Way, Sequence[Timed]]) -> str:
    median = {way: statistics.median([s for one in timed for s in one.steps]) for way, timed in found.items()}
    images = 2 * settings.images
    lines = [f"{json.dumps(asdict(settings))}, torch {torch.__version__}", ""]
    lines += ["| | step, ms | spread of the rounds | images/s |", "|---|---|---|---|"]
    for way, timed in found.items():
        of_rounds = [1e3 * statistics.median(one.steps) for one in timed]
        spread = f"{min(of_rounds):.1f} to {max(of_rounds):.1f}"
        lines.append(f"| {way} | {1e3 * median[way]:.1f} | {spread} | {images / median[way]:.1f} |")
    together = found["together"]
    beyond = median["together"] - median["apart"]
    agreeing = statistics.median([s for one in together for s in one.agreeing])
    naked = statistics.median([one.all_reduce for one in together if one.all_reduce is not None])
    lines += [
        "",
        f"exchange: {1e3 * beyond:.1f} ms, {beyond / median['together']:.1%} of a step",
        f"agreeing on the seven numbers, with waiting for one another: {1e3 * agreeing:.2f} ms",
        f"all-reduce of {together[0].bytes / 1e6:.0f} MB of gradients with nothing beside it: {1e3 * naked:.1f} ms",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
