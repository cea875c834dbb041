"""Trainings that differ in one thing, kept in a file, and the table of what it did.

What the file has is not run again, so a study can be stopped and started at any time. Results of a recipe that has
changed since are kept, and count no more. The table shows one recipe and one count of steps: those of the last result.
It is not written while that has fewer results than what the page shows.
"""

import argparse
import dataclasses
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kept import Results
from place import Place
from program import DATA, ROOT, commit, detector, machine, seconds
from recipe_sums import checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table."""

    group: str
    name: str
    recipe: str = "small"
    settings: tuple[str, ...] = ()
    words: Callable[[int], Sequence[str]] = field(default=lambda _: ())
    """Further words of the command, for a count of steps."""
    decode: tuple[str, ...] = ()
    """Settings for looking at images: the reference is not trained again, only scored again."""

    @property
    def changed(self) -> str:
        """What a result has to have, to be one of this row."""
        return " ".join((*self.settings, *self.decode))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One training."""

    row: str
    changed: str
    """Settings of the row."""
    seed: int
    steps: int
    ap: float
    ap50: float
    seconds: float
    commit: str
    machine: str
    recipes: str
    """Checksum of the settings that the rows of the study begin with."""
    beside: float | None = None
    """AP that the very model which was scored again has as the recipe looks at pictures. A training with the same seed
    on another machine, or with other threads, ends elsewhere. None of what was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Rows, the file of their results, and the place of their table.

    The first row is the reference.
    """

    rows: tuple[Row, ...]
    results: Path
    place: Place
    references: dict[str, str] = field(default_factory=dict[str, str])
    """What the reference is called in a group."""
    models: Path = ROOT / "runs" / "ablation"
    """Where the reference's models are kept, for rows with `decode`."""

    def main(self, description: str | None, *, steps: int) -> None:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--steps", type=int, default=steps)
        parser.add_argument("--seeds", type=int, default=3)
        parser.add_argument("--only", action="append", help="rows whose name holds this; again for more")
        parser.add_argument("--table", action="store_true", help="rewrite the table only")
        options = parser.parse_args()
        if not options.table:
            self._run_missing(options.steps, options.seeds, options.only or [""])
        self._write_table()

    @property
    def _kept(self) -> Results[Result]:
        return Results(self.results, Result)

    @property
    def _recipes(self) -> str:
        return checksum(row.recipe for row in self.rows)

    def _run_missing(self, steps: int, seeds: int, only: Sequence[str]) -> None:
        wanted = [row for row in self.rows if any(part in row.name for part in only)]
        # Seed by seed, so that a table of one seed is whole before the next is begun.
        for seed in range(seeds):
            for row in wanted:
                key = (row.name, row.changed, seed, steps, self._recipes)
                if any((r.row, r.changed, r.seed, r.steps, r.recipes) == key for r in self._kept.read()):
                    continue
                result = self._score_again(row, seed, steps) if row.decode else self._train(row, seed, steps)
                self._kept.add(result)
                sys.stderr.write(f"{row.name}, seed {seed}: AP {result.ap:.3f}  AP50 {result.ap50:.3f}\n")
                self._write_table()

    def _train(self, row: Row, seed: int, steps: int) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            settings = [word for one in (*row.settings, "length.evaluations=1") for word in ("--set", one)]
            length = ["--steps", str(steps), "--seed", str(seed)]
            answer = detector(
                *("train", DATA, "--recipe", row.recipe, *length, "--out", str(run), *settings, *row.words(steps))
            )
            took = seconds(run)
            if row is self.rows[0] and any(other.decode for other in self.rows):
                kept = self._model(seed, steps)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(run / "last.safetensors", kept)  # perhaps to another file system
        return self._result(row, seed, steps, answer, took)

    def _score_again(self, row: Row, seed: int, steps: int) -> Result:
        settings = [word for one in row.decode for word in ("--set", one)]
        with tempfile.TemporaryDirectory() as folder:
            model = self._model(seed, steps)
            if not model.is_file():  # its result is known, but on another machine
                self._train(self.rows[0], seed, steps)
            plain, answer = (
                detector("eval", str(model), DATA, "--split", "val", "--out", f"{folder}/{name}", *words)
                for name, words in (("plain", []), ("again", settings))
            )
        found = self._result(row, seed, steps, answer, 0.0)
        return dataclasses.replace(found, beside=plain["scores"]["ap"])

    def _model(self, seed: int, steps: int) -> Path:
        return self.models / f"{self.results.stem}-{self._recipes}-{steps}-{seed}.safetensors"

    def _result(self, row: Row, seed: int, steps: int, answer: dict[str, Any], took: float) -> Result:
        return Result(
            row=row.name,
            changed=row.changed,
            seed=seed,
            steps=steps,
            ap=answer["scores"]["ap"],
            ap50=answer["scores"]["ap50"],
            seconds=took,
            commit=commit(),
            machine=machine(),
            recipes=self._recipes,
        )

    def _write_table(self) -> None:
        latest = self.latest()
        if len(latest) < _num_results(self.place.read()):
            page = self.place.page
            sys.stderr.write(f"{page}: shows more results than the {len(latest)} there are now, and stays\n")
        elif latest:
            self.place.write(self.table(latest))

    def latest(self) -> list[Result]:
        """What belongs together with the last result."""
        results = self._kept.read()
        rows = {(row.name, row.changed) for row in self.rows}
        return [
            r
            for r in results
            if (r.steps, r.recipes) == (results[-1].steps, results[-1].recipes) and (r.row, r.changed) in rows
        ]

    def table(self, results: Sequence[Result]) -> str:
        """Rows without a result are named below it."""
        of_row = {row.name: [r for r in results if r.row == row.name] for row in self.rows}
        reference = of_row[self.rows[0].name]
        commits = ", ".join(f"`{one}`" for one in dict.fromkeys(r.commit for r in results))
        machines = "; ".join(dict.fromkeys(r.machine for r in results))
        steps = ", ".join(dict.fromkeys(str(r.steps) for r in results))
        scored = sum(len(of_row[row.name]) for row in self.rows if row.decode)
        again = f", {scored} times a model of the first row scored again" * (scored > 0)
        lines = [
            f"{len(results) - scored} trainings of {steps} steps each{again}. Commit {commits}, {machines}. The "
            f"difference is that of equal seeds{', or of one model scored twice' * (scored > 0)}; the spread is the "
            "standard deviation over seeds.",
            "",
            "| | what | seeds | val AP | spread | difference | val AP50 |",
            "|---|---|---|---|---|---|---|",
        ]
        group = ""
        for row in (row for row in self.rows if of_row[row.name]):
            if row.group != group and row.group in self.references:
                lines.append(_line(row.group, self.references[row.group], reference, ()))
                group = row.group
            beside = () if row is self.rows[0] else reference
            lines.append(_line("" if row.group == group else row.group, row.name, of_row[row.name], beside))
            group = row.group
        missing = [row.name for row in self.rows if not of_row[row.name]]
        if missing:
            lines += ["", f"Not measured: {', '.join(missing)}."]
        return "\n".join(lines)


def _num_results(table: str) -> int:
    """That a table of a page is made from: trainings, and models that were scored again.

    Raises:
        ValueError: it does not begin as `Study.table` begins one.
    """
    if not table:
        return 0
    found = re.match(r"(\d+) trainings of [\d, ]+ steps each(?:, (\d+) times)?", table)
    if found is None:
        raise ValueError(f"how many results are in a table that begins {table[:40]!r} is not known; it stays")
    return int(found[1]) + int(found[2] or 0)


def _line(group: str, name: str, found: Sequence[Result], reference: Sequence[Result]) -> str:
    ap = [r.ap for r in found]
    spread = f"{statistics.stdev(ap):.3f}" if len(ap) > 1 else ""
    by_seed = {r.seed: r.ap for r in reference}
    pairs = [(r.ap, by_seed.get(r.seed) if r.beside is None else r.beside) for r in found]
    gains = [ap - beside for ap, beside in pairs if beside is not None]
    difference = f"{statistics.mean(gains):+.3f}" if gains else ""
    ap50 = statistics.mean(r.ap50 for r in found)
    return f"| {group} | {name} | {len(ap)} | {statistics.mean(ap):.3f} | {spread} | {difference} | {ap50:.3f} |"
