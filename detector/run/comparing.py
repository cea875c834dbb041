"""Whether the second of two models is better, and where they differ."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from detector import config_file
from detector.analysis import analyse, bootstrap
from detector.analysis.analyse import Analysis
from detector.analysis.bootstrap import Difference
from detector.config import RunConfig
from detector.data import coco as coco_file
from detector.data import records
from detector.errors import DataError
from detector.evaluate import coco as coco_scores
from detector.evaluate import named
from detector.evaluate.coco import Truth
from detector.model import model_file
from detector.printable import visible
from detector.report import compare_page, document
from detector.report.compare_page import Flip, Side
from detector.run import reporting, subject
from detector.run.data_paths import DataPaths
from detector.run.subject import Place
from detector.train.run_folder import RunFolder

_NAMES = ("AP", "AP50", "AP75")
_LISTED = 20
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOutcome:
    text: str
    values: Mapping[str, object]
    path: Path | None


Change = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What was given for one side, and what it finds."""

    given: Path
    model: Path | None  # None where results were given
    analysis: Analysis


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """How two models differ."""

    a: _Seen
    b: _Seen
    names: Mapping[int, str]  # of images, by row
    differences: tuple[Difference, ...]
    settings: tuple[Change, ...] | None  # None where no models were given
    prints: tuple[Change, ...] | None
    flips: tuple[Flip, ...]
    page: Path | None
    notes: tuple[str, ...] = ()


def compare(
    first: Path,
    second: Path,
    data: DataPaths,
    *,
    split: str,
    out: Path | None,
    device: str,
    say: Callable[[str], None] = lambda _: None,
) -> CompareOutcome:
    """Both models on the same split; with `out` also a page of the pictures that flipped."""
    if out is not None:
        reporting.require_ours(out, document.GENERATOR)
    places = (Place.find(first), Place.find(second))
    files = places[0].split(data, split)
    a, b = (subject.look(place, files, split, device=device, say=say) for place in places)
    if a.analysis.truth.names != b.analysis.truth.names:
        raise DataError(f"{files.annotations}: changed while it was scored; run again")
    differences = bootstrap.differences(a.analysis.matches, b.analysis.matches)
    settings = setting_changes(*(_config(place) for place in places))
    prints = data_changes(*(place.fingerprints() for place in places))
    flips = flipped(a.analysis, b.analysis)
    if out is not None:
        sides = tuple(Side(name=str(one.place.model), analysis=one.analysis, paths=one.paths) for one in (a, b))
        reporting.write(out, compare_page.render(sides[0], sides[1], differences, settings, prints, flips))
    return _outcome(
        _Findings(
            a=_Seen(given=first, model=places[0].model, analysis=a.analysis),
            b=_Seen(given=second, model=places[1].model, analysis=b.analysis),
            names={row: path.name for row, path in a.paths.items()},
            differences=differences,
            settings=settings,
            prints=prints,
            flips=flips,
            page=out,
            notes=tuple(note for place in places for note in _on_last(place)),
        )
    )


def compare_files(first: Path, second: Path, ground_truth: Path) -> CompareOutcome:
    """Two COCO results files against the same ground truth; no model is involved."""
    truth = coco_scores.read_truth(ground_truth)
    notes: dict[str, None] = {}
    sides: list[_Seen] = []
    for path in (first, second):
        results, said = named.read(path, ground_truth)
        notes |= {f"{path}: {note}": None for note in said}
        coco_scores.by_row(results, truth, source=str(path))  # it names the file of what is wrong
        sides.append(_Seen(given=path, model=None, analysis=analyse.analyse(truth, results)))
    a, b = sides
    return _outcome(
        _Findings(
            a=a,
            b=b,
            names=_image_names(ground_truth, truth),
            differences=bootstrap.differences(a.analysis.matches, b.analysis.matches),
            settings=None,
            prints=None,
            flips=flipped(a.analysis, b.analysis),
            page=None,
            notes=tuple(notes),
        )
    )


def _on_last(place: Place) -> list[str]:
    is_best = place.model == place.given or place.model.name == RunFolder(path=place.given).best.name
    return [] if is_best else [f"{place.given}: has no best model, so {place.model.name} is compared"]


def _image_names(ground_truth: Path, truth: Truth) -> dict[int, str]:
    """By row; scoring needs no names, so a file may have none."""
    ids: list[int] = truth.image_ids.tolist()
    images = coco_file.read_tables(ground_truth).images
    try:
        names = records.texts(images, "file_name")
    except DataError:
        return {row: f"image {number}" for row, number in enumerate(ids)}
    of_id = dict(zip(records.whole_numbers(images, "id")[0].tolist(), names, strict=True))
    return {row: of_id[number] for row, number in enumerate(ids)}


def _outcome(found: _Findings) -> CompareOutcome:
    return CompareOutcome(text="\n".join(_lines(found)), values=_values(found), path=found.page)


def setting_changes(a: RunConfig, b: RunConfig) -> tuple[Change, ...]:
    """Settings that differ: name and both values."""
    flat = [_flat(dataclasses.asdict(config)) for config in (a, b)]
    keys = sorted(flat[0].keys() | flat[1].keys())
    pairs = [(key, flat[0].get(key, "-"), flat[1].get(key, "-")) for key in keys]
    return tuple((key, x, y) for key, x, y in pairs if x != y)


def data_changes(a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]) -> tuple[Change, ...]:
    """Splits the runs saw whose files differ, or are unknown, as those of a model file away from its run."""
    if not a and not b:
        return (("all splits", _UNKNOWN, _UNKNOWN),)
    names = sorted(a.keys() | b.keys())
    return tuple(
        (name, _print(a, name), _print(b, name))
        for name in names
        if a.get(name, {}).get("sha256") != b.get(name, {}).get("sha256")
    )


def _print(side: Mapping[str, Mapping[str, Any]], name: str) -> str:
    if not side:
        return _UNKNOWN
    one = side.get(name)
    return "none" if one is None else f"{one.get('annotations', '-')} {str(one.get('sha256', ''))[:12]}"


def flipped(a: Analysis, b: Analysis) -> tuple[Flip, ...]:
    """Images whose number of errors changed, the most changed first; each model at its own best thresholds."""
    pairs = zip(a.tallies, b.tallies, strict=True)
    flips = [Flip(image_row=x.image_row, before=x, after=y) for x, y in pairs if x.errors != y.errors]
    return tuple(sorted(flips, key=lambda one: (-abs(one.change), one.image_row)))


def verdict(one: Difference) -> str:
    """Whether B is better, in words."""
    if not one.is_clear:
        return "no clear difference"
    return "B is better" if one.value > 0 else "A is better"


def _config(place: Place) -> RunConfig:
    path = None if place.run is None else place.run / "config.yaml"
    return config_file.load(path) if path is not None and path.is_file() else model_file.load(place.model).config


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    made: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            made |= _flat(cast("dict[str, Any]", value), f"{above}{key}.")
        else:
            made[f"{above}{key}"] = str(value)
    return made


def _lines(found: _Findings) -> list[str]:
    a, b = found.a, found.b
    lines = [f"A  {a.model or a.given}", f"B  {b.model or b.given}", f"on {a.analysis.truth.source}", ""]
    both = [(one.analysis.scores.ap, one.analysis.scores.ap50, one.analysis.scores.ap75) for one in (a, b)]
    for k, one in enumerate(found.differences):
        lines.append(
            f"{_NAMES[k]:<5} {both[0][k]:.3f} -> {both[1][k]:.3f}   {one.value:+.3f} "
            f"({one.interval.low:+.3f} to {one.interval.high:+.3f}, B better in {100 * one.share_better:.0f} %): "
            f"{verdict(one)}"
        )
    lines += [] if found.differences else ["AP    not defined"]
    per_class = zip(a.analysis.scores.per_class, b.analysis.scores.per_class, strict=True)
    moved = sorted(((y.ap - x.ap, x.name) for x, y in per_class if x.ap >= 0), key=lambda pair: -abs(pair[0]))
    by_class = [f"  {gain:+.3f}  {name}" for gain, name in moved[:_LISTED]]
    lines += ["", "AP by class:", *by_class, ""] if by_class else [""]
    for title, changes in (("settings:", found.settings), ("data:", found.prints)):
        if changes is not None:
            lines += [title, *([f"  {key}: {x} -> {y}" for key, x, y in changes] or ["  the same"])]
    better, worse = (sum(sign * one.change < 0 for one in found.flips) for sign in (1, -1))
    lines += [
        *([""] if lines[-1] else []),
        f"boxes at the thresholds of best F1: A {_counts(a.analysis)}; B {_counts(b.analysis)}",
        f"images in which B has fewer wrong and missed boxes than A: {better}, more: {worse}",
    ]
    lines += [
        f"  {one.before.errors} -> {one.after.errors}  {found.names[one.image_row]}" for one in found.flips[:_LISTED]
    ]
    lines += [f"note: {note}" for note in _notes(found)]
    lines += [f"pictures  {found.page}"] if found.page is not None else []
    return [visible(line) for line in lines]


def _counts(analysis: Analysis) -> str:
    tallies = analysis.tallies
    right, wrong = sum(one.right for one in tallies), sum(one.wrong for one in tallies)
    return f"{right} right, {wrong} wrong, {sum(one.missed for one in tallies)} missed"


def _notes(found: _Findings) -> list[str]:
    """Those on the truth once, those on what was found with whose it is."""
    of_truth = found.a.analysis.truth.notes
    notes = [*of_truth]
    for one in (found.a, found.b):
        mine = [note for note in one.analysis.scores.notes if note not in of_truth]
        notes += [f"{one.model or one.given}: {note}" for note in mine]
    return [*dict.fromkeys([*notes, *found.notes])]


def _values(found: _Findings) -> dict[str, object]:
    return {
        "a": str(found.a.given),
        "b": str(found.b.given),
        "models": None if found.a.model is None else [str(found.a.model), str(found.b.model)],
        "differences": {
            _NAMES[k].lower(): {
                "value": one.value,
                "interval": [one.interval.low, one.interval.high],
                "share_better": one.share_better,
                "verdict": verdict(one),
            }
            for k, one in enumerate(found.differences)
        },
        "settings": None if found.settings is None else [list(change) for change in found.settings],
        "data": None if found.prints is None else [list(change) for change in found.prints],
        "flipped": [
            {"image": found.names[one.image_row], "before": one.before.errors, "after": one.after.errors}
            for one in found.flips
        ],
        "page": None if found.page is None else str(found.page),
        "notes": _notes(found),
    }
