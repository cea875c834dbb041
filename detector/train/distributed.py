"""The processes that train one model together, as a value: one process on a laptop, several under torchrun.

What lies on a GPU is summed by NCCL; what the processes decide together, and all on a CPU, goes by gloo, so that no
decision waits for a device.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous  # pyright: ignore[reportUnknownVariableType] - of its options

from detector.errors import ConfigError, DetectorError
from detector.train import heartbeat, meeting

# A process may rightly wait long, for the scoring of another or for a slow disk; a dead one is found by its heartbeat.
PATIENCE = timedelta(minutes=30)

LOST = "another process has ended, see what it said; the same command begins again, a training from its last checkpoint"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among its equals."""

    rank: int = 0
    size: int = 1
    neighbours: int = 1
    """Processes on this machine, this one included."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Sum over all processes, every one of which must call it; without gradient."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def mean(self, x: Tensor) -> Tensor:
        """Mean over all processes, likewise."""
        return x if self.size == 1 else self.sum(x) / self.size

    def all(self, condition: Tensor) -> Tensor:
        """Whether a bool scalar is true in all processes."""
        return condition if self.size == 1 else self.sum(condition.float()) == self.size

    def highest(self, values: Sequence[float]) -> list[float]:
        """The highest of each value over all processes."""
        if self.size == 1:
            return [*values]
        highest = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
        return cast("list[float]", highest.tolist())

    def share(self, value: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gather(self, value: T) -> list[T]:
        """What each process has, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return cast("list[T]", values)

    def to_first(self, value: T) -> list[T]:
        """What each process has, in the order of ranks, for the first; nothing for the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_first else None
        torch.distributed.gather_object(value, values, dst=0)
        return cast("list[T]", values or [])


def require_alone(what: str) -> None:
    """Refuse torchrun's several processes.

    Raises:
        ConfigError: there are several.
    """
    size = _of_environment("WORLD_SIZE", 1)
    if size > 1:
        raise ConfigError(f"{what} is for one process, and torchrun started {size}; run it without torchrun")


@contextmanager
def joined(device: torch.device) -> Generator[World]:
    """The world that torchrun made, if it made one, until the end of the block; `device` as one process would use it.

    Raises:
        ConfigError: this machine has fewer GPUs than processes.
        DetectorError: another process ended before this one.
    """
    size = _of_environment("WORLD_SIZE", 1)
    if size == 1:
        yield World(device=device)
        return
    world = World(
        rank=_of_environment("RANK", 0),
        size=size,
        neighbours=_of_environment("LOCAL_WORLD_SIZE", 1),
        device=_own_device(device, _of_environment("LOCAL_RANK", 0)),
    )
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    start = meeting.agree(store, world.rank, world.size, PATIENCE)
    torch.distributed.init_process_group(
        backend,
        store=PrefixStore(start, store),
        rank=world.rank,
        world_size=world.size,
        timeout=PATIENCE,
    )
    # Not destroyed where the block raises: NCCL would wait for those that are still at work.
    with heartbeat.kept(world.rank, world.size, start):
        try:
            yield world
            world.highest([0.0])  # nobody leaves before all have done their part
        except RuntimeError as error:
            if is_of_lost_process(error):
                raise DetectorError(f"process {world.rank}: {LOST}") from error
            raise
    torch.distributed.destroy_process_group()


def _of_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text}: must be a whole number; torchrun sets it") from error


def _own_device(device: torch.device, local_rank: int) -> torch.device:
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if ":" in str(device):  # the types say that there always is an index
        raise ConfigError(f"--device {device}: torchrun gives each process its own; use --device cuda")
    if local_rank >= count:
        raise ConfigError(
            f"process {local_rank} of this machine finds only {count} GPUs; give torchrun --nproc-per-node {count}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def is_of_lost_process(error: BaseException) -> bool:
    """Whether it is what a collective operation raises where another process ended."""
    # gloo has no class of its own.
    is_of_gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
    return isinstance(error, torch.distributed.DistError) or is_of_gloo
