"""Whether the second of two models is better, and where they differ."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from detector import config_file
from detector.analysis import bootstrap
from detector.analysis.bootstrap import Difference
from detector.config import RunConfig
from detector.errors import DataError
from detector.model import model_file
from detector.printable import visible
from detector.report import compare_page, document
from detector.report.compare_page import Flip, Side
from detector.run import reporting, subject
from detector.run.data_paths import DataPaths
from detector.run.subject import Place, Subject

_NAMES = ("AP", "AP50", "AP75")
_LISTED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOutcome:
    text: str
    values: Mapping[str, object]
    path: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """How two models differ."""

    a: Subject
    b: Subject
    differences: tuple[Difference, ...]
    settings: tuple[tuple[str, str, str], ...]
    prints: tuple[tuple[str, str, str], ...]
    flips: tuple[Flip, ...]
    page: Path | None


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
    flips = flipped(a, b)
    if out is not None:
        sides = tuple(Side(name=str(one.place.given), analysis=one.analysis, paths=one.paths) for one in (a, b))
        reporting.write(out, compare_page.render(sides[0], sides[1], differences, settings, prints, flips))
    found = _Findings(a=a, b=b, differences=differences, settings=settings, prints=prints, flips=flips, page=out)
    return CompareOutcome(
        text="\n".join(_lines(found)),
        values=_values(found),
        path=out,
    )


def setting_changes(a: RunConfig, b: RunConfig) -> tuple[tuple[str, str, str], ...]:
    """Settings that differ: name and both values."""
    flat = [_flat(dataclasses.asdict(config)) for config in (a, b)]
    keys = sorted(flat[0].keys() | flat[1].keys())
    pairs = [(key, flat[0].get(key, "-"), flat[1].get(key, "-")) for key in keys]
    return tuple((key, x, y) for key, x, y in pairs if x != y)


def data_changes(
    a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, str, str], ...]:
    """Splits the runs saw whose files differ."""
    made: list[tuple[str, str, str]] = []
    for name in sorted(a.keys() | b.keys()):
        x, y = a.get(name, {}), b.get(name, {})
        if x.get("sha256") != y.get("sha256"):
            was, now = (f"{one.get('annotations', '-')} {str(one.get('sha256', ''))[:12]}" for one in (x, y))
            made.append((name, was, now))
    return tuple(made)


def flipped(a: Subject, b: Subject) -> tuple[Flip, ...]:
    """Images whose number of errors changed, the most changed first; each model at its own best thresholds."""
    pairs = zip(a.analysis.tallies, b.analysis.tallies, strict=True)
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
    lines = [f"A  {a.place.given}", f"B  {b.place.given}", f"on {a.analysis.truth.source}", ""]
    both = [(one.analysis.scores.ap, one.analysis.scores.ap50, one.analysis.scores.ap75) for one in (a, b)]
    for k, one in enumerate(found.differences):
        lines.append(
            f"{_NAMES[k]:<5} {both[0][k]:.3f} -> {both[1][k]:.3f}   {one.value:+.3f} "
            f"({one.interval.low:+.3f} to {one.interval.high:+.3f}, B better in {100 * one.share_better:.0f} %): "
            f"{verdict(one)}"
        )
    per_class = zip(a.analysis.scores.per_class, b.analysis.scores.per_class, strict=True)
    moved = sorted(((y.ap - x.ap, x.name) for x, y in per_class if x.ap >= 0), key=lambda pair: -abs(pair[0]))
    lines += ["", "AP by class:", *(f"  {gain:+.3f}  {name}" for gain, name in moved[:_LISTED])]
    lines += ["", "settings:", *([f"  {key}: {x} -> {y}" for key, x, y in found.settings] or ["  the same"])]
    lines += ["data:", *([f"  {name}: {x} -> {y}" for name, x, y in found.prints] or ["  the same"])]
    better, worse = (sum(sign * one.change < 0 for one in found.flips) for sign in (1, -1))
    lines += ["", f"images with fewer errors: {better}, with more: {worse}"]
    lines += [
        f"  {one.before.errors} -> {one.after.errors}  {a.paths[one.image_row].name}" for one in found.flips[:_LISTED]
    ]
    lines += [f"pictures  {found.page}"] if found.page is not None else []
    return [visible(line) for line in lines]


def _values(found: _Findings) -> dict[str, object]:
    a = found.a
    return {
        "a": str(a.place.given),
        "b": str(found.b.place.given),
        "differences": {
            _NAMES[k].lower(): {
                "value": one.value,
                "interval": [one.interval.low, one.interval.high],
                "share_better": one.share_better,
                "verdict": verdict(one),
            }
            for k, one in enumerate(found.differences)
        },
        "settings": [list(change) for change in found.settings],
        "data": [list(change) for change in found.prints],
        "flipped": [
            {"image": a.paths[one.image_row].name, "before": one.before.errors, "after": one.after.errors}
            for one in found.flips
        ],
        "page": None if found.page is None else str(found.page),
    }
