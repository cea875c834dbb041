"""What is said before the first step: what is about to be trained, on what, where and how."""

from collections.abc import Callable, Iterator

import numpy as np

from detector.data.columns import Columns
from detector.run.assembly import Assembly, Past
from detector.run.material import Material
from detector.train.journal import Journal
from detector.train.run_folder import RunFolder

_SHOWN = 100
"""Classes."""
_FEW_OBJECTS = 50
"""To score on."""
_FEW_OF_CLASS = 5
_NAMED = 5
"""Classes, in a warning."""


def introduce(say: Callable[[str], None], material: Material, assembly: Assembly) -> None:
    for line in of_data(material):
        say(line)
    for line in material.fit.lines() if material.fit else ():
        say(line)
    trained = assembly.trained
    names = trained.label_map.names
    more = f" and {len(names) - _SHOWN:,} more" * (len(names) > _SHOWN)
    say(f"classes: {', '.join(names[:_SHOWN])}{more}")
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    height, width = trained.preprocess.canvas_hw
    heads = ", ".join(
        head.name if head.input == "trunk" else f"{head.input} -> {head.name}" for head in trained.config.model.heads
    )
    say(
        f"model: {trained.config.model.backbone}, {parameters / 1e6:.1f} M parameters, heads {heads}, "
        f"canvas {width}x{height}, on {material.facts.device} in {material.facts.precision}"
    )
    if trained.config.distill.teacher is not None:
        say(f"teacher: {trained.config.distill.teacher}")
    model = trained.config.model
    if material.facts.init == "none" and (model.frozen_stages or model.norm == "frozen"):
        say(
            f"warning: model.frozen_stages = {model.frozen_stages} and model.norm = {model.norm} hold "
            "still what starts at random; give weights with --init imagenet or --init FILE"
        )
    if assembly.weights:
        for line in assembly.weights.lines():
            say(line)
    for remark in material.remarks:
        say(remark)


def of_data(material: Material) -> Iterator[str]:
    """What was read, and warnings of images that are not there and of scores that will say little."""
    columns, val = material.columns, material.val_columns
    yield from (f"train: {line}" for line in columns.report.lines())
    yield from _missing(columns, "others stand in for them")
    if val is None:
        yield f"val: {material.no_val}. Nothing is scored, and the last weights are kept as the best"
        return
    yield from (f"val: {line}" for line in val.report.lines())
    yield from _missing(val, "their objects count as missed")
    count = val.report.objects
    if count < _FEW_OBJECTS:
        plural = "object to score on is" if count == 1 else "objects to score on are"
        yield (
            f"warning: {val.annotations}: {count} {plural} few, so chance has a large part in AP and in which weights "
            "are the best; label more, or let `detector split` deal all images anew"
        )
    else:
        yield from _rare(val)
    yield from _shared(columns, val)


def _rare(val: Columns) -> Iterator[str]:
    counts = np.bincount(val.labels[~val.is_crowd], minlength=len(val.label_map.names)).tolist()
    few = [(name, count) for name, count in zip(val.label_map.names, counts, strict=True) if 0 < count < _FEW_OF_CLASS]
    if few:
        told = ", ".join(f"{name} {count}" for name, count in few[:_NAMED]) + ", ..." * (len(few) > _NAMED)
        plural = "class has" if len(few) == 1 else "classes have"
        yield (
            f"warning: {val.annotations}: {len(few)} {plural} fewer than {_FEW_OF_CLASS} objects to score on ({told}); "
            "chance decides their AP, and each class has an equal part in the mean: label more of them"
        )


def _shared(columns: Columns, val: Columns) -> Iterator[str]:
    if columns.images.resolve() != val.images.resolve():
        return
    learned = {columns.file_name(row) for row in range(len(columns))}
    both = [name for name in (val.file_name(row) for row in range(len(val))) if name in learned]
    if both:
        plural = "image is" if len(both) == 1 else "images are"
        yield (
            f"warning: {len(both)} {plural} in {columns.annotations} and in {val.annotations} ({both[0]!r}), so the "
            "scores say little of new images; let `detector split` deal all images anew"
        )


def _missing(columns: Columns, consequence: str) -> Iterator[str]:
    count = columns.report.missing_files
    if count:
        plural = "is" if count == 1 else "are"
        yield (
            f"warning: {columns.annotations}: {count} of its {columns.report.images} images {plural} not in "
            f"{columns.images}, and {consequence}; copy them there, or take them out of the file"
        )


def introduce_past(record: Journal, held: RunFolder, past: Past | None, cut: int) -> None:
    """Say that, and from where, a run is gone on with."""
    if past is None:
        record.say(f"{held.path}: holds a run that ended before its first step; it begins again")
        return
    state = past.state
    for remark in past.remarks:
        record.say(f"resume: {remark}")
    record.say(
        f"resume: goes on with the unfinished run {held.path} from step {state.learner.steps}, "
        f"after {state.loop.seconds / 60:.1f} minutes"
    )
    if cut:
        record.say(f"resume: {cut} lines of later steps, which are done again, are now in metrics-cut.jsonl")
    record.update(
        step=state.learner.steps,
        seconds=state.loop.seconds,
        best_ap=state.loop.best.ap if state.loop.best else None,
        skipped_steps=state.loop.skipped,
        checkpoint_step=state.learner.steps,
    )
