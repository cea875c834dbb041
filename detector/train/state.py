"""The state of training: all that decides how it goes on, said once, for saving and for loading.

What is not here is a pure function of what is: the schedule and the stages of the step, the order of the images and
their augmentation of the seed and the count of images.
"""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]

MODEL, AVERAGE = "objective.", "average."
"""Prefixes of the tensors of a state that are weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What a scoring of the validation split tells the loop."""

    ap: float
    ap50: float
    resampled: tuple[float, ...] = ()
    """AP of resamplings of the split, the same ones in every scoring of a run; -1 where it is not defined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """The model with everything that changes it."""

    steps: int
    stage: int
    lr_scale: float
    """Halved each time training went back to a good state."""
    objective: Tensors
    """Model, adapters of a distillation, weights and memory of the balancer."""
    optimizer: dict[str, Any]
    average: Tensors | None
    average_starts: dict[str, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """Where the loop stands."""

    images: int = 0
    """Taken from the stream of images: the position of the sampler."""
    seconds: float = 0.0
    """Spent so far, by all processes that worked on the run one after another."""
    evaluations: int = 0
    """Scorings of the validation split that are behind us."""
    best: Quality | None = None
    reference: Quality | None = None
    """The last that was clearly better than the reference before it."""
    evaluations_since_reference: int = 0
    skipped: int = 0
    """Steps whose loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    rollbacks: int = 0
    unreadable: tuple[str, ...] = ()
    metrics_bytes: int = 0
    """Length of metrics.jsonl: what stands behind it is of steps that will be done again."""
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomStreams:
    """The global generators, which a head of the user's own may draw from."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def capture(cls) -> Self:
        # `legacy=False` would hide the one generator that `np.random.rand` draws from.
        name, key, place, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state())  # noqa: NPY002
        return cls(
            python=random.getstate(),
            numpy=(name, torch.from_numpy(key.astype(np.int64)), place, has_gauss, cached),
            torch=torch.get_rng_state(),
            cuda=tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else (),
        )

    def restore(self) -> None:
        random.setstate(_nested_tuple(self.python))
        name, key, *rest = self.numpy
        np.random.set_state((name, key.numpy().astype(np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(self.torch)
        if len(self.cuda) == torch.cuda.device_count():
            for index, stream in enumerate(self.cuda):
                torch.cuda.set_rng_state(stream, index)


def seed_streams(rank: int, *, seed: int, step: int = 0) -> None:
    """Give a process global generators of its own."""
    # The leading 2 keeps these numbers apart from those of the order of images and of augmentation.
    sequence = np.random.SeedSequence(seed, spawn_key=(2, step, rank))
    of_python, of_numpy, of_torch = cast("list[int]", sequence.generate_state(3).tolist())
    random.seed(of_python)
    np.random.seed(of_numpy)  # noqa: NPY002
    if rank > 0:  # that of the first was seeded before the weights were drawn
        torch.manual_seed(of_torch)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Everything."""

    learner: LearnerState
    loop: LoopState
    random: RandomStreams
    """Of the first process."""
    others: tuple[RandomStreams, ...] = ()
    """Of the other processes, in the order of ranks."""

    def restore_streams(self, rank: int, *, seed: int) -> None:
        """Go on with the streams of this process; where there were fewer of them, with new ones."""
        if rank > len(self.others):
            seed_streams(rank, seed=seed, step=self.learner.steps)
        else:
            (self.random, *self.others)[rank].restore()

    def snapshot(self) -> Self:
        """A copy in host memory that further steps do not reach."""
        return type(self)(
            learner=LearnerState(**{f.name: _copied(getattr(self.learner, f.name)) for f in fields(self.learner)}),
            loop=self.loop,
            random=self.random,
            others=self.others,
        )

    def weights(self) -> Tensors:
        """The part that is tensors by name."""
        average = self.learner.average or {}
        return {f"{MODEL}{name}": tensor for name, tensor in self.learner.objective.items()} | {
            f"{AVERAGE}{name}": tensor for name, tensor in average.items()
        }

    def rest(self) -> dict[str, Any]:
        """Everything else, of types that `torch.load` takes with `weights_only`."""
        learner = {f.name: getattr(self.learner, f.name) for f in fields(self.learner)}
        del learner["objective"]
        learner["average"] = self.learner.average is not None
        return {
            "learner": learner,
            "loop": asdict(self.loop),
            "random": _plain(self.random),
            "others": [_plain(one) for one in self.others],
        }

    @classmethod
    def of_parts(cls, weights: Mapping[str, Tensor], rest: Mapping[str, Any]) -> Self:
        """From what `weights` and `rest` gave.

        Raises:
            KeyError: something is missing; it names it.
            TypeError: something is of another kind, or too much.
        """
        learner = dict(rest["learner"])
        learner["objective"] = _below(MODEL, weights)
        learner["average"] = _below(AVERAGE, weights) if learner["average"] else None
        loop = dict(rest["loop"])
        loop["unreadable"] = tuple(loop["unreadable"])
        for name in ("best", "reference"):
            loop[name] = None if loop[name] is None else _quality(loop[name])
        _require_all(LearnerState, learner)
        _require_all(LoopState, loop)
        for one in (rest["random"], *rest["others"]):
            _require_all(RandomStreams, one)
        return cls(
            learner=LearnerState(**learner),
            loop=LoopState(**loop),
            random=RandomStreams(**rest["random"]),
            others=tuple(RandomStreams(**one) for one in rest["others"]),
        )


def _plain(streams: RandomStreams) -> dict[str, Any]:
    return {f.name: getattr(streams, f.name) for f in fields(streams)}


def _quality(found: Mapping[str, Any]) -> Quality:
    _require_all(Quality, found)
    return Quality(ap=found["ap"], ap50=found["ap50"], resampled=tuple(found["resampled"]))


def _require_all(kind: type, found: Mapping[str, Any]) -> None:
    """Nothing may be filled in from a default: a state without it would go on, and differently."""
    missing = {field.name for field in fields(kind)} - found.keys()
    if missing:
        raise KeyError(*sorted(missing))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _copied(value: Any) -> Any:
    """The same with every tensor cloned into host memory; strides are kept, since kernels may depend on them."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        items = [_copied(item) for item in cast("list[Any]", value)]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def _nested_tuple(value: Any) -> Any:
    return (
        tuple(_nested_tuple(item) for item in cast("list[Any]", value)) if isinstance(value, (list, tuple)) else value
    )
