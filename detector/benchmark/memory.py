"""How many bytes of tensors live, and how many of them for the backward pass."""

import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations make inside this mode, from their making to their death.

    What an operation needs only for itself, such as a convolution's workspace, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._made_at: dict[int, int] = {}
        self.time = 0
        """Operations so far."""
        self.now = 0
        self.peak = 0

    def made_at(self, address: int) -> int:
        """When the storage there was made; now, if that was not seen."""
        return self._made_at.get(address, self.time)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.time += 1
        given = {_address(tensor) for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._meet(tensor, given)
        return out

    def _meet(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        address = _address(tensor)
        # A view, or a result written in place, lies in storage that is counted already or was made outside.
        if address in given or address in self._sizes or not storage.nbytes():
            return
        self._sizes[address] = storage.nbytes()
        self._made_at[address] = self.time
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._died, address).atexit = False

    def _died(self, address: int) -> None:
        self.now -= self._sizes.pop(address)
        del self._made_at[address]


class Held:
    """Bytes that autograd graphs hold for their backward pass, each storage once.

    A storage counts from when a graph saves it; one that was made after `mark`, from when it was made: the gradients
    that sequential heads fill piece by piece reach a graph only when the last piece is done.
    """

    def __init__(self, live: Live, ignored: Iterable[Tensor] = ()) -> None:
        self._live = live
        self._ignored = {_address(tensor) for tensor in ignored}  # what lives anyway, such as parameters
        self._holders: Counter[int] = Counter()
        self._changes: list[tuple[int, int]] = []  # time and bytes
        self._released_at: dict[int, int] = {}
        self._marked_at = 0
        self.now = 0

    @property
    def peak(self) -> int:
        changes = sorted(self._changes, key=lambda change: change[0])
        return max(accumulate((num_bytes for _, num_bytes in changes), initial=0))

    def mark(self) -> int:
        """Bytes that are held now; what is made from now on counts from its making, if it is saved in the end."""
        self._marked_at = self._live.time
        return self.now

    @contextmanager
    def watching(self) -> Generator[None]:
        """Count what is saved in this block, until its graph lets go of it, here or later."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            yield

    def _pack(self, tensor: Tensor) -> "_Saved":
        address, size = _address(tensor), tensor.untyped_storage().nbytes()
        if address in self._ignored:
            return _Saved(tensor, lambda: None)
        self._holders[address] += 1
        if self._holders[address] == 1:
            self._change(size, self._since(address))
        return _Saved(tensor, lambda: self._release(address, size))

    def _since(self, address: int) -> int:
        """When a storage that is saved now began to count."""
        made = self._live.made_at(address)
        # One that a graph let go before has counted for that time, and a piece of the next graph begins now.
        again = self._released_at.get(address, -1) >= made
        return self._live.time if again or made <= self._marked_at else made

    def _release(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        if not self._holders[address]:
            del self._holders[address]
            self._released_at[address] = self._live.time
            self._change(-size, self._live.time)

    def _change(self, num_bytes: int, time: int) -> None:
        self.now += num_bytes
        self._changes.append((time, num_bytes))


class _Saved:
    """A tensor in a graph; the graph deletes this object when it has no more use for it."""

    def __init__(self, tensor: Tensor, released: Callable[[], None]) -> None:
        self.tensor = tensor.detach()  # without its history, which would lead back here
        self._released = released

    def __del__(self) -> None:
        self._released()


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


def _address(tensor: Tensor) -> int:
    # Its identity while it lives; a fake tensor has no address of data.
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
