"""Training that goes back to its last good state where it diverges or needs too much memory."""

import dataclasses
from collections.abc import Callable

from detector.config import RunConfig
from detector.errors import DetectorError
from detector.run import memory
from detector.train.checkpoint import Identity, NotWrittenError, Store
from detector.train.engine import NoMemoryError, Outcome
from detector.train.health import DivergedError
from detector.train.journal import Journal
from detector.train.learner import Learner
from detector.train.state import TrainingState

MOST_ROLLBACKS = 3


def repeat(
    attempt: Callable[[TrainingState | None], Outcome],
    learner: Learner,
    store: Store,
    identity: Identity,
    record: Journal,
    config: RunConfig,
    start: TrainingState | None,
) -> Outcome:
    """Train; where that diverges or needs too much memory, go back to the last good state and try otherwise.

    Raises:
        DetectorError: that does not help.
    """
    while True:
        try:
            return attempt(start)
        except DivergedError as error:
            first = learner.world.is_first
            found = _with_lower_rate(error, learner, store, record, config) if first else None
            start = learner.world.share(found)
            assert start is not None
            if first:
                _write_at_once(store, start, identity, record)
        except NoMemoryError as error:
            if learner.world.size > 1:  # the others have memory, and wait
                why = memory.reason(error.cause)
                raise DetectorError(f"{why}; set memory.micro_batches, or a smaller batch") from error
            start = _in_smaller_parts(error, learner, store, record, config)
        learner.restore(start.learner)
        record.go_back(start.loop.metrics_bytes)
        record.skipped(start.loop.skipped)


def _in_smaller_parts(
    error: NoMemoryError, learner: Learner, store: Store, record: Journal, config: RunConfig
) -> TrainingState:
    """The last good state, for a learner that takes the same batches in twice as many parts."""
    said = memory.take_more_parts(error.cause, learner, config)
    loaded = store.go_back(record.say)
    why = memory.reason(error.cause)
    if loaded is None:
        raise DetectorError(f"{why}, and there is no checkpoint to go back to") from error
    state = loaded.state
    record.say(f"warning: {why}: back to step {state.learner.steps}, with {said}")
    return dataclasses.replace(state, loop=dataclasses.replace(state.loop, seconds=error.seconds))


def _with_lower_rate(
    error: DivergedError, learner: Learner, store: Store, record: Journal, config: RunConfig
) -> TrainingState:
    """The last good state with half the rate."""
    loaded = store.go_back(record.say)
    rollbacks = 0 if loaded is None else loaded.state.loop.rollbacks
    if loaded is None or rollbacks >= MOST_ROLLBACKS:
        raise DetectorError(
            f"{error}, also after going back {rollbacks} times: lower optim.lr = {config.optim.lr:g} (the rate was "
            f"{learner.lr:.1e} at last) or lengthen optim.warmup_steps"
        ) from error
    state = loaded.state
    scale = state.learner.lr_scale / 2
    record.say(f"warning: {error}: back to step {state.learner.steps}, with {scale:g} of the learning rate from now on")
    return dataclasses.replace(
        state,
        learner=dataclasses.replace(state.learner, lr_scale=scale),
        loop=dataclasses.replace(
            state.loop, rollbacks=rollbacks + 1, skipped=error.skipped, skipped_in_a_row=0, seconds=error.seconds
        ),
    )


def _write_at_once(store: Store, state: TrainingState, identity: Identity, record: Journal) -> None:
    """So that a process that is killed now does not try the higher rate again."""
    try:
        store.write(state.snapshot(), identity)
    except NotWrittenError as error:
        record.say(f"warning: {error}; {error.cure}")
