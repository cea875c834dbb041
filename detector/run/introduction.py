"""What is said before the first step: what is about to be trained, on what, where and how."""

from collections.abc import Callable

from detector.run.assembly import Assembly, Past
from detector.run.material import Material
from detector.train.journal import Journal
from detector.train.run_folder import RunFolder

_SHOWN = 100
"""Classes."""


def introduce(say: Callable[[str], None], material: Material, assembly: Assembly) -> None:
    for line in material.columns.report.lines():
        say(f"train: {line}")
    nothing = ("none, or without objects: the last weights are kept as the best",)
    for line in material.val_columns.report.lines() if material.val_columns else nothing:
        say(f"val: {line}")
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
