"""Processes that train, alone or as torchrun starts them, forked from one that has everything imported."""

import multiprocessing
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from tests.faults import child

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.child", "detector.run", "torch.nn.parallel"])
PATIENCE = 300.0  # seconds, on a machine that has other things to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How they ended, by rank."""

    codes: tuple[int | None, ...]
    said: tuple[str, ...]
    spread: float
    """Seconds from the end of the first to the end of the last that was awaited."""


def train(
    data: Path,
    out: Path,
    *options: str,
    size: int = 2,
    faults: Mapping[int, str] | None = None,
    awaited: Sequence[int] | None = None,
) -> Ended:
    """`detector train` by several processes."""
    return run("train", str(data), "--out", str(out), *options, logs=out, size=size, faults=faults, awaited=awaited)


def run(
    *words: str,
    logs: Path,
    size: int = 2,
    faults: Mapping[int, str] | None = None,
    awaited: Sequence[int] | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = PATIENCE,
) -> Ended:
    """A command by several processes, each of which may have a fault and writes what it says beside `logs`.

    Those that still run once the awaited have ended, or after some minutes, are killed.
    """
    port = _free_port()
    files = [logs.with_name(f"{logs.name}-{rank}.txt") for rank in range(size)]
    common = {
        **(environment or {}),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    processes = [
        CONTEXT.Process(
            target=_run,
            args=(
                {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                str(files[rank]),
                (faults or {}).get(rank, "none"),
                words,
            ),
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    left = {processes[rank].sentinel for rank in (range(size) if awaited is None else awaited)}
    begun, ends = time.monotonic(), list[float]()
    while left and time.monotonic() - begun < seconds:
        ended = set(wait([*left], seconds))
        left -= ended
        ends += [time.monotonic()] * len(ended)
    codes = tuple(process.exitcode for process in processes)
    for process in processes:
        process.kill()
        process.join()
    return Ended(codes=codes, said=tuple(file.read_text() for file in files), spread=ends[-1] - ends[0])


def _run(environment: Mapping[str, str], file: str, fault: str, words: tuple[str, ...]) -> None:
    os.environ.update(environment)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    raise SystemExit(child.main(fault, *words))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
