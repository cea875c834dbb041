"""How many operations something takes, and how often the host must wait for the device in it."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

P = ParamSpec("P")
R = TypeVar("R")

FORWARD, BACKWARD = "forward", "backward"

# The size of what they return, or a number on the host, depends on values on the device.
_WAITING = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
    "torchvision::nms",
}
# Marks for profilers, and questions about types.
_NO_WORK = ("profiler::", "aten::promote_types")
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index", "aten::_index_put_impl_"}


class Operations(TorchDispatchMode):
    """Counts inside this mode, by region: forward, backward, or one that was given a name. Views are left out.

    Regions nest: what runs inside a named one counts there alone. Copies to the host cannot be seen on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, Counter[str]] = {}
        """Of each region, how often each operation ran."""
        self.waits: Counter[str] = Counter()
        """Operations for which the host waits, in all regions."""
        self._regions: list[str] = []

    def total(self, *regions: str) -> int:
        return sum(self.counts.get(region, Counter[str]()).total() for region in regions)

    @contextmanager
    def region(self, name: str) -> Generator[None]:
        """Count what runs in this block under `name`."""
        self._regions.append(name)
        try:
            yield
        finally:
            self._regions.pop()

    def named(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """The function with a region of its own."""

        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.region(name):
                return function(*args, **kwargs)

        return inside

    @contextmanager
    def modules(self, name: str, modules: Iterable[nn.Module]) -> Generator[None]:
        """Count the forward passes of modules, which are called as such, under `name`."""

        def enter(*_: object) -> None:
            self._regions.append(name)

        def leave(*_: object) -> None:
            self._regions.pop()

        with ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
            yield

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func._schema.name)
        if not _is_view(func) and not name.startswith(_NO_WORK):
            self.counts.setdefault(self._here(), Counter())[name] += 1
        if name in _WAITING or (name in _INDEXING and _has_mask(args[1])):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))

    def _here(self) -> str:
        if self._regions:
            return self._regions[-1]
        return BACKWARD if torch._C._current_graph_task_id() != -1 else FORWARD  # pyright: ignore[reportPrivateUsage]


def _is_view(func: Any) -> bool:
    aliases = [value.alias_info for value in func._schema.returns if value.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)


def _has_mask(indices: Iterable[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
