"""What models find in a split; of several processes each looks at some of the images."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from detector.data import loader
from detector.data.columns import Columns
from detector.evaluate import collect
from detector.evaluate.collect import Found
from detector.evaluate.results import Results
from detector.model import inference, precision
from detector.model.model_file import TrainedModel
from detector.predict.ensemble import Fusion
from detector.train.distributed import World

BATCH_SIZE = 8


def find(
    models: Sequence[TrainedModel],
    columns: Columns,
    world: World,
    on_unreadable: Callable[[str], None],
    show: Callable[[int, int], None] | None = None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    dtype: torch.dtype | None = None,
) -> Results | None:
    """Detections in all images, alike in all processes; those of several models are fused.

    Args:
        models: On their devices.
        columns: The split, with the label map of all models.
        world: The processes that call this, each with the same models.
        on_unreadable: Called with the reason for each image that could not be read.
        show: Called after each image with how many are done and how many there are.
        should_stop: Asked after each image; where one process is told so, all get None.
        dtype: Of the convolutions; None for what the settings of each model say.
    """
    reasons: list[str] = []
    rows = range(world.rank, len(columns), world.size)

    def look(done: int, total: int) -> None:
        if show is not None:
            show(done * total // len(rows), total)
        if should_stop() and done < len(rows):
            raise _StopRequested

    note = on_unreadable if world.size == 1 else reasons.append
    try:
        mine = collect.results(_found(models, columns, world, note, rows, dtype), columns, progress=look)
    except _StopRequested:
        mine = None
    if world.size == 1:
        return mine
    parts: list[Results] = []
    for part, of_part in world.gather((mine, reasons)):
        for reason in of_part:
            on_unreadable(reason)
        if part is not None:
            parts.append(part)
    return collect.merge(parts, columns) if len(parts) == world.size else None


class _StopRequested(Exception):  # noqa: N818 - not an error
    """The user does not want to wait for the end."""


def _found(
    models: Sequence[TrainedModel],
    columns: Columns,
    world: World,
    on_unreadable: Callable[[str], None],
    rows: Sequence[int],
    dtype: torch.dtype | None,
) -> Iterator[Found]:
    # The first one's choice: the probe of another process may find otherwise.
    dtypes = world.share([dtype or precision.resolve(model.config.precision, _device(model)) for model in models])
    if not rows:
        return iter(())
    of_each = [
        _found_by_one(model, columns, world, on_unreadable, rows, one)
        for model, one in zip(models, dtypes, strict=True)
    ]
    return of_each[0] if len(models) == 1 else _fused(models, columns, of_each)


def _found_by_one(
    model: TrainedModel,
    columns: Columns,
    world: World,
    on_unreadable: Callable[[str], None],
    rows: Sequence[int],
    dtype: torch.dtype,
) -> Iterator[Found]:
    batches = loader.evaluation_loader(
        columns,
        model.preprocess,
        batch_size=BATCH_SIZE,
        workers=loader.num_workers(model.config.data, world.neighbours),
        pin=_device(model).type == "cuda",
        rows=rows,
    )
    return collect.detections(partial(inference.detect, model, dtype=dtype), batches, on_unreadable=on_unreadable)


def _fused(models: Sequence[TrainedModel], columns: Columns, of_each: Sequence[Iterator[Found]]) -> Iterator[Found]:
    maps, decodes = [model.label_map for model in models], [model.config.decode for model in models]
    fusion = Fusion.of(maps, columns.label_map, decodes)
    for together in zip(*of_each, strict=True):
        rows = {row for row, _ in together}
        assert len(rows) == 1, "every model sees the same images in the same order"
        yield rows.pop(), fusion.combine([found for _, found in together])


def _device(model: TrainedModel) -> torch.device:
    return next(model.model.parameters()).device
