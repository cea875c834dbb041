"""`status.json`: how a run stands, for people and for programs, whole at any moment. Imports no torch."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from detector import files
from detector.errors import ConfigError
from detector.printable import visible

FILE = "status.json"
State = Literal["starting", "running", "finished", "interrupted", "failed"]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A run as it stands."""

    state: State = "starting"
    reason: str = ""
    """Why it is not running any more."""
    step: int = 0
    epoch: float = 0.0
    progress: float = 0.0
    """Share of the run that is done."""
    losses: dict[str, float] = field(default_factory=dict[str, float])
    lr: float | None = None
    images_per_second: float | None = None
    seconds: float = 0.0
    eta_seconds: float | None = None
    ap: float | None = None
    best_ap: float | None = None
    checkpoint_step: int | None = None
    skipped_steps: int = 0
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    updated: str = field(default_factory=now)


def write(folder: Path, status: Status) -> None:
    text = json.dumps(asdict(status), indent=2) + "\n"
    files.write_text(folder / FILE, text, durable=False)


def read(folder: Path) -> Status:
    """The last that was written.

    Raises:
        ConfigError: the folder is no run.
    """
    path = folder / FILE
    try:
        tree = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        known = {one.name for one in fields(Status)}
        return Status(**{key: value for key, value in tree.items() if key in known})
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {advice(folder)}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is no status of a run ({error})") from error


def advice(folder: Path) -> str:
    """What to name in place of a folder that is no run; that of a learning curve holds several."""
    inside = sorted(folder.glob(f"*/{FILE}"))
    return f"name the folder of a run{f', such as {inside[-1].parent}' if inside else ''}"


def change(folder: Path, *, state: State, reason: str) -> None:
    """Note of a run that is not running how it stands; what says so already is left alone."""
    with suppress(OSError, ConfigError):
        status = read(folder)
        if status.state != state:
            write(folder, replace(status, state=state, reason=reason, updated=now()))


def describe(folder: Path, status: Status, *, is_alive: bool) -> str:
    """Some lines for people."""
    died = status.state in ("starting", "running") and not is_alive
    state = "ended without a word (killed?); the same command with --resume goes on" if died else status.state
    lines = [
        f"run         {folder}",
        f"state       {state}{f': {status.reason}' if status.reason else ''}",
        f"done        {status.progress:.0%}, step {status.step}, epoch {status.epoch:.1f}, {_clock(status.seconds)}",
    ]
    if is_alive and status.eta_seconds is not None:
        lines.append(f"left        about {_clock(status.eta_seconds)}, {status.images_per_second or 0:.1f} images/s")
    if status.losses:
        lines.append("losses      " + "  ".join(f"{name} {value:.3f}" for name, value in status.losses.items()))
    if status.best_ap is not None:
        lines.append(f"validation  best AP {status.best_ap:.3f}, last {status.ap or 0:.3f}")
    if status.skipped_steps:
        lines.append(f"left out    {status.skipped_steps} steps that were not finite")
    if status.checkpoint_step is not None:
        lines.append(f"checkpoint  of step {status.checkpoint_step}")
    lines.append(f"process     {status.pid} on {status.host}, last heard of {status.updated}")
    return "\n".join(visible(line) for line in lines)


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
