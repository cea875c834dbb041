"""What a run will need, measured before its first step.

A run has phases: spans in which a step costs the same. Each is tried on a batch as full as the data can make it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from detector.config import RunConfig
from detector.data.columns import Columns
from detector.geometry import letterbox
from detector.train import schedule, stages
from detector.train.schedule import Plan
from detector.types import Batch, BatchShape, Targets

SECONDS_WORTH_REPEATING = 2.0
"""A first step that took longer is not done again: what it spent on warming up is a small part of it."""
_NOTHING = 1e-6  # share of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A span of the run whose steps cost the same."""

    share: float
    progress: float
    """In the middle of it."""
    shape: BatchShape
    stage: str
    """Empty in a run without stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A whole run."""

    seconds: float
    steps: int
    evaluations: int


def phases(config: RunConfig, canvas_hw: tuple[int, int]) -> tuple[Phase, ...]:
    """In their order; the shares sum to 1."""
    cuts = {0.0, schedule.cut_outs_until(config), config.augment.clean_from}
    cuts |= set(accumulate(stage.share for stage in config.stages))
    if config.assign.kind == "task_aligned":
        cuts.add(config.assign.aligned_from)
    begins = sorted(cut for cut in cuts if cut < 1)
    found: list[Phase] = []
    for begin, end in pairwise([*begins, 1.0]):
        if end - begin < _NOTHING:  # sums of shares miss one another by a rounding
            continue
        middle = (begin + end) / 2
        found.append(
            Phase(
                share=end - begin,
                progress=middle,
                shape=schedule.batch_shape(middle, config, canvas_hw),
                stage=stages.at(config.stages, middle).stage.name if config.stages else "",
            )
        )
    return tuple(found)


def fill(batch: Batch, columns: Columns, row: int, times: int = 1) -> Batch:
    """The batch with the objects of one image of the data set in every image, as small as they must be to fit.

    `times` over, where training mixes so many images.
    """
    canvas_hw = (batch.images.shape[2], batch.images.shape[3])
    height, width = columns.sizes_hw[row].tolist()
    here, count = columns.objects(row), len(batch.images)
    boxes = torch.from_numpy(columns.boxes[here])
    boxes = letterbox.boxes_to_canvas(boxes, letterbox.fit((height, width), canvas_hw))
    is_crowd = torch.from_numpy(columns.is_crowd[here])
    return Batch(
        images=batch.images,
        targets=Targets(
            boxes=boxes.repeat(count, times, 1),
            labels=torch.from_numpy(columns.labels[here]).repeat(count, times),
            is_object=(~is_crowd).repeat(count, times),
            is_crowd=is_crowd.repeat(count, times) if bool(is_crowd.any()) else None,
        ),
        indices=batch.indices,
        placements=batch.placements,
    )


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Of the second time it is done, or of the first where that took long."""
    first = _timed(work, device)
    return first if first > SECONDS_WORTH_REPEATING else _timed(work, device)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def estimate(plan: Plan, shares: Sequence[float], step_seconds: Sequence[float], scoring_seconds: float) -> Estimate:
    """What a run will take, from what a step takes in each of its phases.

    Args:
        plan: Steps, or time, and how often it is scored.
        shares: Of each phase.
        step_seconds: Of a step in each phase.
        scoring_seconds: Of one scoring.
    """
    scoring = plan.evaluations * scoring_seconds
    confirming = scoring_seconds if plan.evaluations else 0.0  # the best model is scored anew at the end
    if plan.steps is not None:
        mean = sum(share * seconds for share, seconds in zip(shares, step_seconds, strict=True))
        return Estimate(
            seconds=plan.steps * mean + scoring + confirming, steps=plan.steps, evaluations=plan.evaluations
        )
    assert plan.seconds is not None
    training = max(0.0, plan.seconds - scoring)
    steps = sum(share * training / seconds for share, seconds in zip(shares, step_seconds, strict=True))
    return Estimate(seconds=plan.seconds + confirming, steps=int(steps), evaluations=plan.evaluations)
