"""torch.compile for the network, where it is worth it.

What is compiled has the same parameters under the same names and computes the same but for rounding. Compiling takes a
minute or more and each shape of input is compiled for itself, so whether it pays is measured once for each machine,
network and shape, and remembered.
"""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from detector import files
from detector.errors import ConfigError
from detector.model import precision
from detector.model.detector import DetectionModel

_KIND = "compile-trials"
WORTH_IT = 1.03  # times as fast as before
_ROUNDS = 3
_SHAPES = 64  # of inputs that may be compiled: every level of the pyramid is one, for each size of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Seconds of one pass of the network, as it is and compiled."""

    eager: float
    compiled: float

    @property
    def pays(self) -> bool:
        return self.eager > WORTH_IT * self.compiled

    def sentence(self) -> str:
        verdict = "used" if self.pays else "not used: the network stays as it is"
        return f"compiled network: {self.compiled:.3f} s a pass beside {self.eager:.3f} s; {verdict}"


def compile_for_training(model: DetectionModel) -> None:
    """Compile trunk and heads in place; it happens as they meet their first inputs."""
    _allow_shapes()
    for part in _parts(model):
        part.compile(dynamic=False)


def compile_for_inference(model: DetectionModel, canvas_hw: tuple[int, int]) -> None:
    """Compile the whole network in place for one size of canvas, with its weights of now as a part of the code."""
    _allow_shapes()
    model.eval().requires_grad_(requires_grad=False)
    model.priors(canvas_hw)  # kept by the model, and made outside of the code
    model.compile(dynamic=False, options={"freezing": True})


def for_training(model: DetectionModel, images: Tensor, *, dtype: torch.dtype) -> Trial:
    """Compile as above if a forward and backward pass of a batch like `images` is faster so.

    Raises:
        ConfigError: the network cannot be compiled here.
    """

    def step() -> None:
        with torch.enable_grad(), precision.autocast(images.device, dtype):
            prediction = model(images)
            total = prediction.logits.float().sum() + prediction.deltas.float().sum()
        total.backward()

    facts = _facts("training", model, images, dtype)
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        return _compile_if_faster(facts, _parts(model), step, lambda: compile_for_training(model), images.device)
    finally:
        # The passes were none of the training: neither statistics nor gradients may stay.
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])


def for_inference(model: DetectionModel, images: Tensor, *, dtype: torch.dtype) -> Trial:
    """Compile as above if the network finds objects in a batch like `images` faster so.

    Raises:
        ConfigError: the network cannot be compiled here.
    """

    def step() -> None:
        with torch.inference_mode(), precision.autocast(images.device, dtype):
            model(images)

    def compile_whole() -> None:
        compile_for_inference(model, (images.shape[2], images.shape[3]))

    model.eval()
    facts = _facts("inference", model, images, dtype)
    return _compile_if_faster(facts, [model], step, compile_whole, images.device)


def _parts(model: DetectionModel) -> list[nn.Module]:
    return [model.backbone, model.neck, *model.heads.values()]


def _allow_shapes() -> None:
    torch._dynamo.config.recompile_limit = _SHAPES  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _compile_if_faster(
    facts: object,
    parts: Sequence[nn.Module],
    step: Callable[[], None],
    compile_parts: Callable[[], None],
    device: torch.device,
) -> Trial:
    trial = _remembered(facts)
    if trial is not None:
        if trial.pays:
            compile_parts()
        return trial
    eager = _seconds(step, device)
    compile_parts()
    try:
        trial = Trial(eager=eager, compiled=_seconds(step, device))
    except Exception as error:
        _as_before(parts)
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ConfigError(
            f"--compile: torch cannot compile the network here: {type(error).__name__}: {reason}; leave --compile out"
        ) from error
    if not trial.pays:
        _as_before(parts)
    files.remember(_KIND, facts, asdict(trial))
    return trial


def _as_before(parts: Sequence[nn.Module]) -> None:
    for part in parts:
        part._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage] - torch has no public way back


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """Of a pass; the first, which compiles, is not timed."""
    times: list[float] = []
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _facts(what: str, model: DetectionModel, images: Tensor, dtype: torch.dtype) -> tuple[object, ...]:
    """What a trial depends on: the machine, the network and the shape."""
    device = images.device
    return (
        what,
        torch.__version__,
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.node()} {platform.processor()}",
        torch.get_num_threads(),
        str(dtype),
        tuple(images.shape),
        str(model),
        [parameter.requires_grad for parameter in model.parameters()],
    )


def _remembered(facts: object) -> Trial | None:
    try:
        return Trial(**{name: float(value) for name, value in files.remembered(_KIND, facts).items()})
    except (TypeError, ValueError):
        return None  # nothing, or nothing usable: it is measured again
