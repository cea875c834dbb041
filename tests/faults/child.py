"""`detector train` with a trunk of a hundredth of the weights, and, if asked, a fault on the way.

    python -m tests.faults.child FAULT ARGUMENTS...

FAULT is `none` or NAME=NUMBER, see `FAULTS`.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import get_worker_info
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

from detector import cli, files
from detector.data import dataset
from detector.model import backbone, inference
from detector.train import checkpoint, heartbeat
from detector.train.checkpoint import Store
from detector.train.learner import Learner

WIDTHS = (8, 8, 16, 16)


def quiet_norm(width: int) -> FrozenBatchNorm2d:
    """As the identity it would let the activations of random weights grow."""
    norm = FrozenBatchNorm2d(width)
    norm.running_var.fill_(4.0)
    return norm


class NarrowBackbone(backbone.Backbone):
    def __init__(self, *args: Any, norm: Any, **kwargs: Any) -> None:
        super().__init__(*args, norm=norm, **kwargs)
        norm = quiet_norm if norm == "frozen" else nn.BatchNorm2d
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(WIDTHS[0])
        before = WIDTHS[0]
        for number, width in enumerate(WIDTHS, start=1):
            stride = 1 if number == 1 else 2
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), norm(width))
            block = BasicBlock(before, width, stride=stride, downsample=shortcut, norm_layer=norm)
            setattr(self, f"layer{number}", nn.Sequential(block))
            before = width
        self.widths = WIDTHS


def shrink() -> None:
    """Make every network of this process small."""
    from detector.model import detector as network

    network.Backbone = NarrowBackbone  # type: ignore[attr-defined, misc]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(number: int) -> None:
    step = Learner.learn

    def learn(self: Learner, *args: Any, **kwargs: Any) -> Any:
        if self.steps == number:
            kill()
        return step(self, *args, **kwargs)

    Learner.learn = learn  # type: ignore[method-assign]


def process_dies(number: int) -> None:
    """Process 1 of several is killed before a step, once."""
    step, marker = Learner.learn, Path(os.environ["FAULT_MARKER"])

    def learn(self: Learner, *args: Any, **kwargs: Any) -> Any:
        if self.steps == number and self.world.rank == 1 and not marker.exists():
            marker.touch()
            kill()
        return step(self, *args, **kwargs)

    Learner.learn = learn  # type: ignore[method-assign]


def draws_and_dies(number: int) -> None:
    """A network that draws from every global stream; process 1 of several is killed before a step, once."""
    step, folder = Learner.learn, Path(os.environ["FAULT_MARKER"])

    def learn(self: Learner, batch: Any, *args: Any, **kwargs: Any) -> Any:
        drawn = (float(torch.rand(())), random.random(), float(np.random.rand()))  # noqa: NPY002
        if self.steps == number and self.world.rank == 1 and not (folder / "killed").exists():
            (folder / "killed").touch()
            kill()
        batch.images.copy_((batch.images * (0.5 + sum(drawn) / 6)).to(torch.uint8))
        with (folder / f"drawn-{self.world.rank}.txt").open("a") as file:
            file.write(f"{self.steps} {drawn}\n")
        return step(self, batch, *args, **kwargs)

    Learner.learn = learn  # type: ignore[method-assign]


def falls_silent(number: int) -> None:
    """Process 1 of several stops for good, and no process has much patience."""
    heartbeat.INTERVAL, heartbeat.SILENCE = 0.2, 2.0
    step = Learner.learn

    def learn(self: Learner, *args: Any, **kwargs: Any) -> Any:
        if self.steps == number and self.world.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return step(self, *args, **kwargs)

    Learner.learn = learn  # type: ignore[method-assign]


def kill_in_save(number: int) -> None:
    """Kill at the nth of the moments between which a checkpoint is made: its writes, syncs and renames."""
    left = [number]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                kill()
            return function(*args, **kwargs)

        return call

    checkpoint.save_file = counted(checkpoint.save_file)
    torch.save = counted(torch.save)
    files.sha256 = counted(files.sha256)
    files.sync = counted(files.sync)
    Path.rename = counted(Path.rename)  # type: ignore[method-assign]
    checkpoint.shutil.rmtree = counted(checkpoint.shutil.rmtree)  # type: ignore[assignment]


def signal_at_step(which: int) -> Callable[[int], None]:
    def install(number: int) -> None:
        step = Learner.learn

        def learn(self: Learner, *args: Any, **kwargs: Any) -> Any:
            if self.steps == number:
                os.kill(os.getpid(), which)
            return step(self, *args, **kwargs)

        Learner.learn = learn  # type: ignore[method-assign]

    return install


def signal_in_preflight(number: int) -> None:
    """The signal of this number in the first step that is tried."""
    rehearse = Learner.rehearse

    def struck(self: Learner, *args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), number)
        rehearse(self, *args, **kwargs)

    Learner.rehearse = struck  # type: ignore[method-assign]


def kill_in_scoring(number: int) -> None:
    """Kill in the middle of the first scoring after that many steps."""
    step, detect, done = Learner.learn, inference.detect, [0]

    def learn(self: Learner, *args: Any, **kwargs: Any) -> Any:
        done[0] = self.steps + 1
        return step(self, *args, **kwargs)

    def detect_and_die(*args: Any, **kwargs: Any) -> Any:
        found = detect(*args, **kwargs)
        if done[0] >= number:
            kill()
        return found

    Learner.learn = learn  # type: ignore[method-assign]
    inference.detect = detect_and_die


def nan_at_step(number: int, count: int = 1) -> None:
    step = Learner.learn

    def learn(self: Learner, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if number <= self.steps < number + count:
            batch.targets.boxes.fill_(float("nan"))
        return step(self, batch, *args, **kwargs)

    Learner.learn = learn  # type: ignore[method-assign]


def full_disk_at_save(number: int) -> None:
    """From the nth checkpoint on there is no room, as `ulimit -f` has it."""
    import resource

    write, done = Store.write, [0]

    def limited(self: Store, *args: Any) -> Path:
        done[0] += 1
        if done[0] >= number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            return write(self, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    Store.write = limited  # type: ignore[method-assign]


def worker_dies(number: int) -> None:
    """A loader process is killed at image `number` of epoch 1, once."""
    load, marker = dataset._open, Path(os.environ["FAULT_MARKER"])

    def load_or_die(columns: Any, row: int) -> Any:
        if row == number and get_worker_info() and not marker.exists():
            marker.touch()
            kill()
        return load(columns, row)

    dataset._open = load_or_die


def worker_hangs(number: int) -> None:
    load, marker = dataset._open, Path(os.environ["FAULT_MARKER"])

    def load_or_hang(columns: Any, row: int) -> Any:
        if row == number and get_worker_info() and not marker.exists():
            marker.touch()
            time.sleep(1000)
        return load(columns, row)

    dataset._open = load_or_hang


def watch_from_step(number: int) -> None:
    """No fault: memory and open files, written down at that step and every hundred from there."""
    step, marker = Learner.learn, Path(os.environ["FAULT_MARKER"])
    page = os.sysconf("SC_PAGE_SIZE")

    def learn(self: Learner, *args: Any, **kwargs: Any) -> Any:
        if self.steps >= number and (self.steps - number) % 100 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            files_open = sum(1 for _ in Path("/proc/self/fd").iterdir())
            with marker.open("a") as file:
                file.write(f"{self.steps} {resident} {files_open}\n")
        return step(self, *args, **kwargs)

    Learner.learn = learn  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[int], None]] = {
    "kill-at-step": kill_at_step,
    "kill-in-save": kill_in_save,
    "kill-in-scoring": kill_in_scoring,
    "process-dies": process_dies,
    "draws-and-dies": draws_and_dies,
    "falls-silent": falls_silent,
    "sigterm-at-step": signal_at_step(signal.SIGTERM),
    "sigint-at-step": signal_at_step(signal.SIGINT),
    "sigusr1-at-step": signal_at_step(signal.SIGUSR1),
    "sighup-at-step": signal_at_step(signal.SIGHUP),
    "signal-in-preflight": signal_in_preflight,
    "nan-at-step": nan_at_step,
    "nan-from-step": lambda number: nan_at_step(number, 10**9),
    "full-disk-at-save": full_disk_at_save,
    "worker-dies": worker_dies,
    "worker-hangs": worker_hangs,
    "watch-from-step": watch_from_step,
}


def main(fault: str, *words: str) -> int:
    torch.set_num_threads(1)
    assert torchvision
    shrink()
    name, _, value = fault.partition("=")
    if name != "none":
        FAULTS[name](int(value))
    return cli.main(words)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], "train", *sys.argv[2:]))
