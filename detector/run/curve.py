"""The same training on a quarter, a half and all of the training images, and what more labels would bring."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector import config_file, files
from detector.analysis import bootstrap, matching
from detector.config import LengthConfig, RunConfig
from detector.data import sampling
from detector.errors import ConfigError, DataError, DetectorError
from detector.evaluate import coco
from detector.evaluate.coco import Interval
from detector.evaluate.results import Results
from detector.fitting import choice, power_law
from detector.fitting.choice import AutoRecipe, Choice, Fit
from detector.fitting.power_law import Forecast, Point, PowerLaw
from detector.model import device as devices
from detector.report import plots
from detector.run import fitting, material, scoring
from detector.run.data_paths import DataPaths
from detector.run.training import forecast as forecast_of
from detector.run.training import train
from detector.train import distributed, run_folder
from detector.train.distributed import World
from detector.train.run_folder import RunFolder

SHARES = (0.25, 0.5, 1.0)
_PLAN = "curve-plan.json"
_FEWEST_IMAGES = 8
_FEW_TO_SCORE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveOutcome:
    """What came of the three trainings; law, forecast and plot are None where they were interrupted."""

    folder: Path
    points: tuple[Point, ...]
    """Fewer than the shares where it was interrupted."""
    law: PowerLaw | None
    forecast: Forecast | None
    plot: Path | None
    steps: int
    """Of each training."""
    interrupted_by: int | None = None
    """The signal that did."""

    def text(self) -> str:
        rows = [
            f"{point.num_images:>8,}  {point.score:6.3f}  {point.low:6.3f} to {point.high:.3f}" for point in self.points
        ]
        lines = [f"{'images':>8}  {'val AP':>6}  {'95 % interval':>15}", *rows, ""]
        if self.law is not None and all(point.score == 0 for point in self.points):
            lines += ["nothing was found with any part of the images: train for longer", ""]
        elif self.law is not None and self.forecast is not None:
            lines += [
                power_law.sentence(self.points, self.forecast),
                f"{self._way()}; {self.steps:,} steps each",
                "",
            ]
        return "\n".join([*lines, f"curve  {self.folder}"])

    def _way(self) -> str:
        assert self.law is not None
        if self.law.power == 0:
            return "more images did not help"
        return f"1 - AP falls with images to the power -{self.law.power:.2f}, as if AP 1 could be reached"

    def values(self) -> dict[str, object]:
        return {
            "folder": str(self.folder),
            "steps": self.steps,
            "points": [
                {"num_images": point.num_images, "score": point.score, "low": point.low, "high": point.high}
                for point in self.points
            ],
            "power_law": None if self.law is None else dataclasses.asdict(self.law),
            "forecast": None if self.forecast is None else dataclasses.asdict(self.forecast),
            "plot": None if self.plot is None else str(self.plot),
            "interrupted": self.interrupted_by is not None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Of all parts: settings but for the share, and what was asked for on which data, to know it again."""

    config: RunConfig
    asked: str
    fit: Fit | None = None


def learning_curve(
    data: DataPaths,
    config: RunConfig | AutoRecipe,
    *,
    out: Path | None,
    init: str,
    device: str,
    say: Callable[[str], None],
) -> CurveOutcome:
    """Train three times for the same number of steps, score on the validation split, and look ahead.

    Each part is a run folder in `out`; the same command goes on where it was stopped. See `detector train
    --learning-curve`.

    Raises:
        DataError: there is no validation split, there are too few images, or the data cannot be read.
        ConfigError: a setting does not go with it, or the folder holds something else or cannot be written.
        DetectorError: a training went wrong.
    """
    distributed.require_alone("--learning-curve")
    splits = material.read(data)
    if splits.val is None:
        raise DataError(f"a learning curve is scored on a validation split: {splits.no_val}")
    if len(splits.train) < _FEWEST_IMAGES:
        raise DataError(f"a learning curve needs {_FEWEST_IMAGES} training images or more, found {len(splits.train)}")
    if len(splits.val) < _FEW_TO_SCORE:
        say(f"curve: {len(splits.val)} validation images are few; scores, intervals and forecast are rough")
    plan = _plan(data, splits, config, out=out, init=init, device=device, say=say)
    folder = _claim(out, plan)
    steps = plan.config.length.steps
    assert steps is not None
    points: list[Point] = []
    for share in SHARES:
        part = folder / f"part-{round(100 * share):03}"
        say(f"curve: {share:.0%} of the training images, {steps:,} steps, in {part}")
        made = dataclasses.replace(plan.config, data=dataclasses.replace(plan.config.data, share=share))
        done = train(data, made, out=part, init=init, device=device, resume=run_folder.existing(part) is not None)
        if done.interrupted_by is not None:
            return _outcome(folder, points, steps, done.interrupted_by)
        rows = sampling.part(splits.train, share, made.seed)
        points.append(_point(len(rows), done.last, data, part, device))
    outcome = _outcome(folder, points, steps, None)
    _write(folder / "curve.json", json.dumps(outcome.values(), indent=2) + "\n")
    return outcome


def _outcome(folder: Path, points: list[Point], steps: int, interrupted_by: int | None) -> CurveOutcome:
    if interrupted_by is not None:
        return CurveOutcome(
            folder=folder, points=tuple(points), law=None, forecast=None, plot=None, steps=steps,
            interrupted_by=interrupted_by,
        )  # fmt: skip
    law = power_law.fit([point.num_images for point in points], [point.score for point in points])
    found = power_law.forecast(points, 2 * points[-1].num_images)
    plot = folder / "curve.svg"
    try:
        with files.written_whole(plot) as temporary:
            temporary.write_bytes(plots.learning_curve(points, law, found))
    except OSError as error:
        raise _unwritable(folder, error) from error
    return CurveOutcome(folder=folder, points=tuple(points), law=law, forecast=found, plot=plot, steps=steps)


def _plan(
    data: DataPaths,
    splits: material.Splits,
    config: RunConfig | AutoRecipe,
    *,
    out: Path | None,
    init: str,
    device: str,
    say: Callable[[str], None],
) -> _Plan:
    """That of the folder, where it holds one; else a new one."""
    asked = _asked(config, init, splits)
    held = _read_plan(out)
    if held is None:
        run_folder.require_free(out)  # before anything is measured
        return _new_plan(data, splits, config, asked=asked, init=init, device=device, say=say)
    if held.asked != asked:
        raise ConfigError(
            f"{out}: holds a learning curve of other settings, data or first weights; give the same, or choose "
            "another --out"
        )
    return held


def _new_plan(
    data: DataPaths,
    splits: material.Splits,
    config: RunConfig | AutoRecipe,
    *,
    asked: str,
    init: str,
    device: str,
    say: Callable[[str], None],
) -> _Plan:
    """One whose steps are measured if the length is in minutes."""
    world = World(device=devices.resolve(device))
    settled, fit = fitting.settled(config, splits.train, world, init)
    for line in fit.lines() if fit is not None else ():
        say(line)
    if settled.data.share != 1:
        raise ConfigError("data.share is what a learning curve varies; leave it out")
    forecast = forecast_of(data, settled, out=None, init=init, device=device, say=lambda _: None)
    for line in forecast.on_threads():
        say(line)
    steps = max(1, forecast.estimate.steps)
    if settled.length.minutes is not None:
        say(f"curve: {settled.length.minutes:g} min are about {steps:,} steps here")
    minutes = len(SHARES) * forecast.estimate.seconds / 60
    say(f"curve: {len(SHARES)} trainings of {steps:,} steps each, about {minutes:.0f} min in all")
    if isinstance(config, AutoRecipe):
        fit = fitting.fitted(_in_steps(config, steps), splits.train, world, init)
        if fit.config.optim.warmup_steps != settled.optim.warmup_steps:
            say(f"curve: optim.warmup_steps {fit.config.optim.warmup_steps}, a twentieth of them")
        others = (one for one in fit.choices if one.setting not in choice.LENGTHS)
        each = Choice(setting="length.steps", value=steps, reason="of each of the three trainings")
        settled, fit = fit.config, dataclasses.replace(fit, choices=(*others, each))
    else:
        for line in forecast.on_warm_up():
            say(line)
    length = LengthConfig(steps=steps, evaluations=1)
    return _Plan(config=dataclasses.replace(settled, length=length), asked=asked, fit=fit)


def _in_steps(recipe: AutoRecipe, steps: int) -> AutoRecipe:
    """The recipe for a run of so many, whose warm-up follows."""
    changes = {name: value for name, value in recipe.changes.items() if name not in choice.LENGTHS}
    return AutoRecipe(changes=changes | dict.fromkeys(choice.LENGTHS) | {"length.steps": steps})


def _asked(config: RunConfig | AutoRecipe, init: str, splits: material.Splits) -> str:
    """What the automatic recipe makes of it depends on the machine, and does not count."""
    settings = dict(config.changes) if isinstance(config, AutoRecipe) else config_file.dump(config)
    data = [None if split is None else material.fingerprint(split).sha256 for split in (splits.train, splits.val)]
    return json.dumps({"settings": settings, "init": init, "data": data}, sort_keys=True, default=str)


def _read_plan(out: Path | None) -> _Plan | None:
    if out is None or not (out / _PLAN).is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads((out / _PLAN).read_text(encoding="utf-8"))
        config = config_file.loads(str(content["config"]), source=str(out / _PLAN))
        return _Plan(config=config, asked=str(content["asked"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{out / _PLAN}: cannot be read ({error}); choose another --out") from error


def _claim(out: Path | None, plan: _Plan) -> Path:
    if out is not None and (out / _PLAN).is_file():
        return out
    folder = run_folder.claim(out, prefix="curve").path
    if plan.fit is not None:
        fitting.write(folder, plan.fit)
    _write(folder / _PLAN, json.dumps({"asked": plan.asked, "config": config_file.dump(plan.config)}, indent=2) + "\n")
    return folder


def _point(num_images: int, model: Path, data: DataPaths, part: Path, device: str) -> Point:
    """Results that an earlier start of the command left are taken as they are."""
    found = data.split("val")
    saved = scoring.saved_results(model, "val", found.annotations)
    if saved is None:
        saved = scoring.evaluate([model], data, split="val", out=part / "eval-val", device=device).results_path
    truth = coco.read_truth(found.annotations)
    draws = bootstrap.draw(matching.match(truth.objects, coco.by_row(Results.read(saved), truth)))
    score = max(0.0, float(draws.scored[0]))
    interval = next(iter(draws.intervals()), Interval(low=score, high=score))
    return Point(
        num_images=num_images,
        score=score,
        low=interval.low,
        high=interval.high,
        resampled=tuple(draws.values[:, 0].tolist()),
    )


def _write(path: Path, text: str) -> None:
    try:
        files.write_text(path, text)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _unwritable(folder: Path, error: OSError) -> DetectorError:
    return ConfigError(run_folder.why_unwritable(RunFolder(path=folder), error))
