"""Weights of one network put into another that differs from it: in classes, levels, offsets, norms of the towers."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from detector.config import Classification, ModelConfig, RunConfig
from detector.errors import CheckpointError
from detector.model import box_outputs, class_outputs
from detector.model.box_outputs import Offsets
from detector.model.detector import DetectionModel
from detector.model.state_names import BACKBONE, COUNTER, block_length, trunk_name

_SHOWN = 6
"""Names in a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Weights in our names, and how the network is built that they come from."""

    source: str
    state: Mapping[str, Tensor]
    left: tuple[str, ...] = ()
    """Names in the file that we have none for."""
    classes: tuple[str, ...] | None = None
    """None where they are taken to be ours; empty where nobody can tell."""
    classification: Classification
    offsets: Offsets
    first_level: int
    normed_towers: frozenset[str]
    """Heads that have norms in their towers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """What an initialisation took over and what keeps its random start."""

    source: str
    taken: tuple[str, ...]
    random: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        every = Counter(_part(name) for name in (*self.taken, *self.random))
        taken = Counter(_part(name) for name in self.taken)
        counts = ", ".join(f"{part} {taken[part]} of {count}" for part, count in sorted(every.items()))
        return (f"weights from {self.source}; tensors taken: {counts}", *self.remarks)


def load_fitting(model: DetectionModel, origin: Origin, config: RunConfig, classes: Sequence[str]) -> TakenOver:
    """Put into the model all that fits.

    Raises:
        CheckpointError: the trunk is another; half a trunk is worth nothing.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTER)}
    _require_trunk(origin, own)
    normed = {head.name for head in config.model.heads if head.tower.norm == "group"}
    theirs_of = {_moved(name, origin, config.model, normed): name for name in origin.state}
    moved = {ours: origin.state[theirs] for ours, theirs in theirs_of.items()}
    state, remarks = _with_fitted_outputs(moved, own, origin, config, classes)
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    over = TakenOver(source=origin.source, taken=tuple(fitting), random=tuple(n for n in own if n not in fitting))
    dropped = theirs_of.keys() - state.keys()  # output layers, which have remarks of their own by now
    remarks += [*_on_random(over, {name: state.get(name) for name in own if name not in dropped}, own)]
    left = [*origin.left, *(theirs_of[name] for name in state if name not in own and not name.endswith(COUNTER))]
    if left:
        remarks.append(f"weights: left in the file: {_listed(left)}")
    return replace(over, remarks=tuple(remarks))


def _require_trunk(origin: Origin, own: Mapping[str, Tensor]) -> None:
    theirs = {n: v for n, v in origin.state.items() if n.startswith(BACKBONE) and not n.endswith(COUNTER)}
    ours = {name: value for name, value in own.items() if name.startswith(BACKBONE)}
    foreign = next(_foreign(theirs), None)
    reason = foreign or next(_differences(theirs, ours), None)
    if reason is None:
        return
    given, wanted = trunk_name(theirs), trunk_name(ours)
    if foreign is None and _has_batch_norms(theirs) != _has_batch_norms(ours):
        words = ("batch norms", "group norms") if _has_batch_norms(theirs) else ("group norms", "batch norms")
        raise CheckpointError(
            f"{origin.source}: its trunk has {words[0]}, this model's {words[1]}; set model.norm={words[0].split()[0]}"
        )
    if foreign is None and given is not None and given != wanted:
        raise CheckpointError(
            f"{origin.source}: its trunk is a {given}, this model's a {wanted}; set model.backbone={given}"
        )
    raise CheckpointError(
        f"{origin.source}: its trunk is no {wanted} as torchvision and timm have it: {reason}; give other weights"
    )


def _has_batch_norms(state: Iterable[str]) -> bool:
    return any(name.endswith("running_mean") for name in state)


def _foreign(theirs: Iterable[str]) -> Iterator[str]:
    """What no ResNet of ours has, whatever its depth."""
    for name in theirs:
        if name == f"{BACKBONE}conv1.0.weight":
            yield "it has a stem of several convolutions (conv1.0.weight), as resnet50d"
        elif re.search(r"\.se\.|\.downsample\.2\.", name):
            yield f"it has {name.removeprefix(BACKBONE)}"


def _differences(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        word = name.removeprefix(BACKBONE)
        if name not in ours:
            yield f"it has {word}"
        elif name not in theirs:
            yield f"it has no {word}"
        elif theirs[name].shape != ours[name].shape:
            yield f"{word} is {_shape(theirs[name])}, wanted is {_shape(ours[name])}"


_LEVEL = re.compile(r"neck\.(lateral|output)\.(\d+)\.(\w+)")
_TOWER = re.compile(r"heads\.(\w+)\.tower\.(\d+)\.(\w+)")


def _moved(name: str, origin: Origin, config: ModelConfig, normed: set[str]) -> str:
    """The name that a level or a layer of a tower has in this network, some of whose heads have norms in theirs."""
    if level := _LEVEL.fullmatch(name):
        shift = origin.first_level - config.pyramid.first_level
        return f"neck.{level[1]}.{int(level[2]) + shift}.{level[3]}"
    if (layer := _TOWER.fullmatch(name)) and layer[1] in {head.name for head in config.heads}:
        block, part = divmod(int(layer[2]), block_length(has_norm=layer[1] in origin.normed_towers))
        index = block * block_length(has_norm=layer[1] in normed) + part
        return f"heads.{layer[1]}.tower.{index}.{layer[3]}"
    return name


def _with_fitted_outputs(
    moved: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: Origin, config: RunConfig, classes: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The state with output layers of the units and classes of this network, or without such layers; and remarks."""
    state = dict(moved)
    layers = {
        head.name: [f"heads.{head.name}.output.{part}" for part in ("weight", "bias")] for head in config.model.heads
    }
    theirs, ours = origin.offsets, box_outputs.of_model(config.model)
    there, here = len(theirs.priors_wh), len(ours.priors_wh)
    if there != here:
        outputs = [state.pop(name) for names in layers.values() for name in names if name in state]
        told = f"weights: {there} priors a cell there, {here} here: no output layer taken"
        return state, [told] if outputs else []
    remarks: list[str] = []
    boxes = {head.name for head in config.model.heads if head.kind == "box"}
    for head in config.model.heads:
        layer = {name: state.pop(name) for name in layers[head.name] if name in state}
        if head.kind == "box":
            refines = head.input in boxes
            layer = {
                name: box_outputs.rewritten(rows, theirs, ours, refines=refines)
                if rows.shape == own[name].shape
                else rows
                for name, rows in layer.items()
            }
            if layer and theirs.priors_wh != ours.priors_wh and not refines:
                remarks.append(f"weights: outputs of heads.{head.name} are written anew, for priors of other sides")
        elif head.kind == "classification" and layer:
            layer, said = _of_our_classes(layer, own, origin, config, classes)
            remarks += said
        state |= layer
    return state, remarks


def _of_our_classes(
    layer: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: Origin, config: RunConfig, classes: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """An output layer's weights and biases for the classes of this network, as far as it has any; and remarks."""
    theirs, kind = origin.classes, config.loss.classification
    if not class_outputs.are_alike(origin.classification, kind):
        why = f"{origin.classification} there, loss.classification={kind} here"
        return {}, [f"weights: all class outputs at random: {why}"]
    if theirs is None or theirs == tuple(classes):
        return dict(layer), []
    if not theirs:
        return {}, ["weights: all class outputs at random: the file does not say of which classes its own are"]
    places, num_priors = class_outputs.same_names(classes, theirs), len(origin.offsets.priors_wh)
    made: dict[str, Tensor] = {}
    for name, old in layer.items() if places else ():
        rows = num_priors * (len(theirs) + (kind == "softmax"))
        has_its_shape = old.shape == (rows, *own[name].shape[1:])  # else it is told by that, as other layers are
        made[name] = (
            class_outputs.mapped(old, own[name], places, num_priors=num_priors, has_background=kind == "softmax")
            if has_its_shape
            else old
        )
    same = [_pair(classes[here], theirs[there]) for here, there in places.items()]
    rest = [name for i, name in enumerate(classes) if i not in places]
    found = f": {_listed(same)}" if same else ""
    others = f"; at random, from the class prior: {_listed(rest)}" if rest else ""
    return made, [f"weights: class outputs by name, {len(same)} of {len(classes)}{found}{others}"]


def _pair(ours: str, theirs: str) -> str:
    return ours if ours == theirs else f"{ours} (there {theirs})"


def _on_random(over: TakenOver, offered: Mapping[str, Tensor | None], own: Mapping[str, Tensor]) -> Iterator[str]:
    """What is missing in parts of which something was taken; the others are told by their counts."""
    begun = {_part(name) for name in over.taken}
    facts: list[str] = []
    for name in over.random:
        if (tensor := offered.get(name)) is not None:
            facts.append(f"{name} ({_shape(tensor)} there, {_shape(own[name])} here)")
        elif name in offered and _part(name) in begun:
            facts.append(f"{name} (not there)")
    if facts:
        yield f"weights: at random: {_listed(facts)}"


def _part(name: str) -> str:
    return ".".join(name.split(".")[: 2 if name.startswith("heads.") else 1])


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
