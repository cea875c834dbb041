"""Stages of training, found by a pure function of how much of the run is done.

A stage has its losses with their weights, its parts that learn, and its rate. Freezing the backbone first, adding a
loss later, and distillation in one, two or three stages are lists of stages and nothing else.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from detector.config import RunConfig, StageConfig
from detector.errors import ConfigError
from detector.model.detector import DetectionModel
from detector.train.distillation import FEATURES

FADE = 0.02
"""Share of the run over which weights go linearly from one stage's to the next's."""
REWARM = 0.01
"""Share of the run over which the rate comes up again at the start of a later stage."""

EVERYTHING = StageConfig(name="all", share=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where training stands among its stages."""

    index: int
    stage: StageConfig
    into: float
    """Share of the run since the stage began."""


def at(stages: Sequence[StageConfig], progress: float) -> Moment:
    """The stage that owns `progress`, in [0, 1]; a boundary belongs to the later stage."""
    stages = stages or (EVERYTHING,)
    start = 0.0
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        # The sum of shares may miss 1 by a rounding.
        if last or progress < start + stage.share - 1e-9:
            return Moment(index=index, stage=stage, into=max(0.0, progress - start))
        start += stage.share
    raise AssertionError("the last stage owns the rest")


def weights(stages: Sequence[StageConfig], progress: float, base: Mapping[str, float]) -> tuple[float, ...]:
    """Weight of every loss term, in the order of `base`, which holds those of a run without stages."""
    moment = at(stages, progress)
    now = weights_of(moment.stage, base)
    share = min(FADE, moment.stage.share)
    if moment.index == 0 or moment.into >= share:
        return now
    before = weights_of(stages[moment.index - 1], base)
    t = moment.into / share
    return tuple((1 - t) * a + t * b for a, b in zip(before, now, strict=True))


def lr_factor(stages: Sequence[StageConfig], progress: float) -> float:
    """The stage's own factor; a later stage comes up to it linearly, because its losses are new to the optimizer."""
    moment = at(stages, progress)
    rise = 1.0 if moment.index == 0 else min(1.0, moment.into / REWARM)
    return moment.stage.lr_factor * rise


def check(config: RunConfig, base: Mapping[str, float]) -> None:
    """See that the stages speak of losses that the run has; `base` as in `weights`.

    Raises:
        ConfigError: a stage names another, or gives all of them no weight.
    """
    terms = tuple(base)
    for stage in config.stages or (EVERYTHING,):
        for term in stage.weights:
            if term not in terms:
                raise ConfigError(f"stages.{stage.name}.weights: the run has no loss {term!r}; {_cure(term, terms)}")
        if not any(weights_of(stage, base)):
            key = f"stages.{stage.name}.weights" if config.stages else "loss"
            raise ConfigError(f"{key}: no loss has a weight, so nothing would be learned; give one")
        reached = _reached(
            config, [term for term, weight in zip(terms, weights_of(stage, base), strict=True) if weight]
        )
        if not reached & set(stage.learn or reached):
            raise ConfigError(
                f"stages.{stage.name}: no loss with a weight reaches the parts that learn ({', '.join(stage.learn)}); "
                "name other parts, or give one of their losses a weight"
            )


def set_learners(model: DetectionModel, stage: StageConfig) -> None:
    """Let the stage's parts learn and hold the others still, the statistics of their norms too."""
    heads = {head.name: model.heads.head(head) for head in model.heads.configs}
    parts: dict[str, nn.Module] = {"backbone": model.backbone, "neck": model.neck, **heads}
    learns = set(stage.learn) or {"backbone", "neck", "heads"}
    model.train()
    for name, part in parts.items():
        does_learn = name in learns or (name in heads and "heads" in learns)
        part.train(does_learn)
        part.requires_grad_(does_learn)
    model.backbone.hold_frozen()


def _reached(config: RunConfig, terms: Sequence[str]) -> set[str]:
    """Parts that the gradient of these losses comes to, by all the names that they have in `learn`."""
    inputs = {head.name: head.input for head in config.model.heads}
    reached = {"backbone", "neck"}
    for term in terms:
        head = term.partition(".")[0]
        while head in inputs:
            reached |= {head, "heads"}
            head = inputs[head] if config.model.cascade_gradient == "full" else ""
    return reached


def _cure(term: str, terms: Sequence[str]) -> str:
    if is_against_teacher(term) and not any(is_against_teacher(other) for other in terms):
        return "it is one against a teacher: name one with --teacher CHECKPOINT"
    close = difflib.get_close_matches(term, terms, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(terms)}"


def weights_of(stage: StageConfig, base: Mapping[str, float]) -> tuple[float, ...]:
    """Weight of every loss term in a stage, its beginning apart, which fades over from the one before."""
    return tuple(
        stage.weights.get(term, weight * (1.0 if is_against_teacher(term) else stage.ground_truth))
        for term, weight in base.items()
    )


def is_against_teacher(term: str) -> bool:
    branch, _, name = term.partition(".")
    return branch == FEATURES or name == "logit"
