"""All heads of a network: which reads which, and what they say together."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detector.config import HeadConfig
from detector.errors import ConfigError
from detector.geometry import codec
from detector.model.heads import CustomHead, DenseHead
from detector.model.recompute import recomputed
from detector.types import Prediction

Group = tuple[HeadConfig, ...]
"""Heads that are connected by their inputs, in order; a parallel head is a group of its own."""


def groups(heads: Sequence[HeadConfig]) -> tuple[Group, ...]:
    """Heads by connection; those of the last box head first, because other losses ask for its boxes."""
    last_box = _last_box(heads)
    group_of: dict[str, list[HeadConfig]] = {}
    for head in heads:
        group = group_of.get(head.input, [])
        group.append(head)
        group_of[head.name] = group
    unique = list({id(group): tuple(group) for group in group_of.values()}.values())
    return tuple(sorted(unique, key=lambda group: all(head.name != last_box for head in group)))


def _last_box(heads: Sequence[HeadConfig]) -> str:
    return [head.name for head in heads if head.kind == "box"][-1]


class HeadSet(nn.ModuleDict):
    """The heads by name, in the order of the configuration.

    The last box head gives the boxes, the classification head the scores, and every head with a factor scales them.
    """

    def __init__(
        self,
        heads: Sequence[tuple[HeadConfig, DenseHead]],
        *,
        detach_cascade: bool,
        delta_std: codec.Std,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.configs = tuple(config for config, _ in heads)
        self.groups = groups(self.configs)
        self.last_box = _last_box(self.configs)
        """The head whose boxes are the answer."""
        self.delta_std = delta_std
        self._detach_cascade = detach_cascade
        self._recompute = recompute  # the activations of a head in the backward pass, level by level
        for config, module in heads:
            if hasattr(self, config.name):
                # Such as half or type: torch keeps modules among its own attributes.
                raise ConfigError(f"model.heads.{config.name}: the name is taken; choose another")
            self[config.name] = module

    def head(self, config: HeadConfig) -> DenseHead:
        return self.head_named(config.name)

    def head_named(self, name: str) -> DenseHead:
        module = self[name]
        assert isinstance(module, DenseHead)
        return module

    def rows(self, group: Group, levels: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """What each head of a group says: [B, priors of these levels, outputs].

        Args:
            group: The heads.
            levels: The trunk's maps [B, F, h, w] for each head: the same, or copies whose gradients are kept apart.
        """
        position = {head.name: i for i, head in enumerate(group)}
        rows: list[list[Tensor]] = []
        features: list[list[Tensor]] = []
        for head, inputs in zip(group, levels, strict=True):
            upstream = features[position[head.input]] if head.input in position else [None] * len(inputs)
            if self._detach_cascade:
                upstream = [None if x is None else x.detach() for x in upstream]
            said = [self._say(self.head(head), x, above) for x, above in zip(inputs, upstream, strict=True)]
            rows.append([row for row, _ in said])
            features.append([feature for _, feature in said])
        return [torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for parts in rows]

    def _say(self, head: DenseHead, features: Tensor, upstream: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._recompute:
            return recomputed(head, head, features, upstream)
        return head(features, upstream)

    def forward(self, levels: Sequence[Tensor], priors: Float[Tensor, "a 4"]) -> Prediction:
        """All heads on the same maps."""
        return self.prediction([self.rows(group, [levels] * len(group)) for group in self.groups], priors)

    def prediction(self, rows: Sequence[Sequence[Tensor]], priors: Float[Tensor, "a 4"]) -> Prediction:
        """What the rows of each group's heads say together."""
        logits: Tensor | None = None
        deltas: Tensor | None = None
        factors: list[Tensor] = []
        for group, said in zip(self.groups, rows, strict=True):
            for i, head in enumerate(group):
                if head.kind == "classification":
                    logits = said[i]
                elif head.name == self.last_box:
                    deltas = self._relative_to_priors(group, i, said, priors)
                elif (factor := self._factor(head, said[i].float())) is not None:
                    factors.append(factor)
        assert logits is not None
        assert deltas is not None
        factor = torch.stack(factors).prod(dim=0) if factors else None
        return Prediction(logits=logits, deltas=deltas, score_factor=factor)

    def refines(self, head: HeadConfig) -> bool:
        """Whether a head counts its offsets from another head's boxes."""
        return head.kind == "box" and any(other.name == head.input and other.kind == "box" for other in self.configs)

    def _factor(self, head: HeadConfig, rows: Tensor) -> Tensor | None:
        """[B, A] in [0, 1] that a head multiplies into the scores."""
        if head.kind == "quality":
            return rows[..., 0].sigmoid()
        module = self.head(head)
        factor = module.score_factor(rows) if isinstance(module, CustomHead) else None
        if factor is not None and factor.shape != rows.shape[:2]:
            raise ConfigError(
                f"model.heads.{head.name} ({head.factory}): its score_factor has shape {tuple(factor.shape)}; "
                f"return one number for each prior, {tuple(rows.shape[:2])}"
            )
        return factor

    def _relative_to_priors(self, group: Group, i: int, rows: Sequence[Tensor], priors: Tensor) -> Tensor:
        """Offsets of a box head; those of one that refines another's boxes are written anew."""
        if not self.refines(group[i]):
            return rows[i]
        refined = found_boxes(group, rows, priors, self.delta_std)[i]
        assert refined is not None
        return codec.encode(refined, priors, self.delta_std)


def _refined(group: Group, i: int) -> int | None:
    """Position of the box head whose boxes head `i` refines."""
    names = [head.name if head.kind == "box" else "" for head in group]
    return names.index(group[i].input) if group[i].kind == "box" and group[i].input in names else None


def references(
    group: Group, i: int, boxes: Sequence[Tensor | None], priors: Float[Tensor, "n 4"]
) -> Float[Tensor, "*b n 4"]:
    """What the offsets of box head `i` count from: the priors, or the boxes [b, n, 4] of the head it refines."""
    refined = _refined(group, i)
    found = None if refined is None else boxes[refined]
    return priors if found is None else found


@torch.no_grad()
def found_boxes(
    group: Group, rows: Sequence[Tensor], priors: Float[Tensor, "n 4"], delta_std: codec.Std
) -> list[Tensor | None]:
    """Boxes float32 [b, n, 4] of each box head of a group, without gradient; None for the other heads."""
    boxes: list[Tensor | None] = []
    for i, head in enumerate(group):
        if head.kind == "box":
            boxes.append(codec.decode(rows[i].detach().float(), references(group, i, boxes, priors), delta_std))
        else:
            boxes.append(None)
    return boxes
