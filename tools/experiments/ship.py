r"""Make a run's best model a file that the project ships: half precision, scored, timed, with its card and manifest.

    python tools/experiments/ship.py runs/train-001 data/blood-cells --name NAME --commit COMMIT \
        --licence Apache-2.0 --data-licence MIT --limit "Not for diagnosis."

It writes weights/NAME.safetensors, weights/NAME.md and the file's entry in weights/manifest.json. What the card says is
measured here, on the test split, with the very file that is shipped. Of a run without a validation split the last
weights are taken. `--before` names the command that made its data, if one did.
"""

import argparse
import json
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector import Detector, files, run
from detector.benchmark.environment import Environment
from detector.cli.settings import decode_settings
from detector.data import coco, layout
from detector.data.columns import Columns
from detector.data.layout import SplitFiles
from detector.model import model_file, precision
from detector.run import EvalOutcome
from detector.train import run_status

MOST_BYTES = 30_000_000
COMPUTE = "float32"
"""In bfloat16, which machines have or have not, scores differ by more than a thousandth of AP."""
_USE = {"train": "learned from", "val": "best weights chosen on", "test": "tested on"}
TIMED_IMAGES, WARM_UP = 30, 3
CARD = """\
# {name}

Finds {classes}. One file: [`{file}`]({file}), {megabytes:.1f} MB, weights in {precision}.

```
{predict}
```

## What it is

| | |
|---|---|
| network | {network} |
| input | {canvas}; the whole picture is scaled to fit |
| data | {data} |
| first weights | {init} |
| training | {training} |
| program | commit `{commit}` |

Made with

```
{commands}
```

All settings are inside the file.

## Scores

Test split of {data_folder}, {num_images} images, by the file itself on a CPU in {dtype}. The ranges are 95 %
intervals by bootstrap over the images.

| | AP | AP50 | AP75 |
|---|---|---|---|
| all | {ap:.3f} ({ap_range}) | {ap50:.3f} ({ap50_range}) | {ap75:.3f} ({ap75_range}) |

| class | AP | AP50 | objects |
|---|---|---|---|
{per_class}

The model before its weights were halved has AP {full_ap:.4f}, this file {ap:.4f}.

```
{eval_command}
```

## Speed

{milliseconds:.0f} ms an image, one at a time and read from its file, on {machine}.

## Limits

{limits}

## Licence

The weights: {licence}. The pictures they were trained on: {data_licence}.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the manifest says of a file."""

    file: str
    sha256: str
    bytes: int
    precision: str
    classes: tuple[str, ...]
    recipe: str
    command: str
    commit: str
    data: str
    splits: dict[str, str]
    """Of the annotation file of each split that was learned from, chosen on or tested on: its checksum."""
    ap: float
    ap50: float
    ap75: float
    ap_per_class: dict[str, float]
    licence: str
    data_licence: str


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    weights: Path = options.weights
    weights.mkdir(parents=True, exist_ok=True)
    typed = shlex.join(["python", "tools/experiments/ship.py", *(sys.argv[1:] if argv is None else argv)])
    # Everything is measured before anything that is shipped already is touched.
    with tempfile.TemporaryDirectory(dir=weights) as folder:
        made = Path(folder) / f"{options.name}.safetensors"
        entry, card = _made(options, made, typed)
        made.replace(weights / made.name)
    (weights / made.name).with_suffix(".md").write_text(card, encoding="utf-8")
    _put(weights / "manifest.json", entry)


def _made(options: argparse.Namespace, target: Path, typed: str) -> tuple[Entry, str]:
    """Write the file; its entry in the manifest, and its card."""
    splits = _splits(options)
    source: Path = options.run / ("best.safetensors" if "val" in splits else "last.safetensors")
    decode = decode_settings(options.settings)
    model_file.write_half(source, target, getattr(torch, options.precision), decode=decode, compute=COMPUTE)
    if target.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{target.name}: {target.stat().st_size} bytes are more than {MOST_BYTES}")
    whole = target.with_name(f"whole-{target.name}")
    model_file.write_half(source, whole, torch.float32, decode=decode, compute=COMPUTE)
    scores, full = _score(target, options.data), _score(whole, options.data)
    command = _command(options.run, options.data)
    entry = Entry(
        file=target.name,
        sha256=files.sha256(target),
        bytes=target.stat().st_size,
        precision=options.precision,
        classes=model_file.load(target).label_map.names,
        recipe=_after("--recipe", command) or ("that of a file" if _after("--config", command) else "auto"),
        command=shlex.join(command),
        commit=options.commit,
        data=str(options.data),
        splits={split: files.sha256(found.annotations) for split, found in splits.items()},
        ap=scores.scores.ap,
        ap50=scores.scores.ap50,
        ap75=scores.scores.ap75,
        ap_per_class={one.name: one.ap for one in scores.scores.per_class},
        licence=options.licence,
        data_licence=options.data_licence,
    )
    return entry, _card(target, entry, options, scores, full, (*options.before, entry.command, typed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished training")
    parser.add_argument("data", type=Path, help="its data set, with a test split")
    parser.add_argument("--name", required=True)
    parser.add_argument("--commit", required=True, type=_commit, help="of the program that trained")
    parser.add_argument(
        "--before", action="append", default=[], metavar="COMMAND", help="that made the data of the run"
    )
    parser.add_argument("--licence", default="Apache-2.0")
    parser.add_argument("--data-licence", required=True)
    parser.add_argument("--limit", action="append", default=[], metavar="SENTENCE", help="where not to trust it")
    parser.add_argument("--precision", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="decode.KEY=VALUE", help="how boxes are read off"
    )
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="folder for the three files")
    return parser


def _commit(text: str) -> str:
    """No name of a commit, which moves."""
    if not re.fullmatch(r"[0-9a-f]{6,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no commit; give its number")
    return text


def _score(model: Path, data: Path, decode: Mapping[str, object] | None = None) -> EvalOutcome:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "eval"
        return run.evaluate([model], run.DataPaths(folder=data), split="test", out=out, device="cpu", decode=decode)


def _learned_from(folder: Path, data: Path) -> Mapping[str, SplitFiles]:
    """Files of `train`, and of `val` if the best weights were chosen on it; those of `data` if they are equal."""
    noted = json.loads((folder / "data.json").read_text(encoding="utf-8"))["splits"]
    return {split: _where(data, split, one) for split, one in noted.items()}


def _where(data: Path, split: str, noted: Mapping[str, str]) -> SplitFiles:
    if split in layout.available_splits(data):
        found = layout.find(data, split)
        if files.sha256(found.annotations) == noted["sha256"]:
            return found
    return SplitFiles(annotations=Path(noted["annotations"]), images=Path(noted["image_folder"]))


def _splits(options: argparse.Namespace) -> Mapping[str, SplitFiles]:
    return {**_learned_from(options.run, options.data), "test": layout.find(options.data, "test")}


def _command(folder: Path, data: Path) -> list[str]:
    """As it was typed, but for where program, data and run lay then."""
    words: list[str] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["command"]
    words = words[2:] if words[1:2] == ["train"] else words[1:]
    words = [str(data) if Path(word).resolve() == data.resolve() else word for word in words]
    if "--out" in words[:-1]:
        words[words.index("--out") + 1] = str(folder)
    return ["detector", "train", *words]


def _after(option: str, command: Sequence[str]) -> str | None:
    words = [part for word in command for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return next((value for word, value in pairwise(words) if word == option), None)


def _device(environment: Mapping[str, Any]) -> str:
    threads = environment["cpu_threads"]
    return f"cpu ({threads} thread{'s' * (threads != 1)})" if environment["device"] == "cpu" else environment["device"]


def _card(
    path: Path,
    entry: Entry,
    options: argparse.Namespace,
    scores: EvalOutcome,
    full: EvalOutcome,
    commands: Sequence[str],
) -> str:
    trained = model_file.load(path)
    height, width = trained.preprocess.canvas_hw
    parameters = sum(parameter.numel() for parameter in trained.model.parameters())
    status = run_status.read(options.run)
    environment: dict[str, Any] = json.loads((options.run / "environment.json").read_text(encoding="utf-8"))
    columns = {split: coco.read(found.annotations, found.images) for split, found in _splits(options).items()}
    test = columns["test"]
    first = options.weights / entry.file
    ranges = [f"{one.low:.3f} to {one.high:.3f}" for one in scores.intervals]
    return CARD.format(
        name=options.name,
        classes=", ".join(entry.classes),
        file=entry.file,
        megabytes=entry.bytes / 1e6,
        precision=entry.precision,
        predict=f"detector predict {first} {test.images / test.file_name(0)}",
        network=f"{trained.config.model.backbone}, {parameters / 1e6:.1f} M parameters, recipe {entry.recipe}",
        canvas=f"{width}x{height} pixels",
        data="; ".join(f"{_USE[split]} {len(one)} images, {len(one.labels)} boxes" for split, one in columns.items()),
        init=environment["init"],
        training=f"{status.step:,} steps, {status.epoch:.1f} epochs, {status.seconds / 60:.0f} minutes on "
        f"{_device(environment)} in {environment['precision']}",
        commit=entry.commit,
        commands="\n".join(commands),
        data_folder=entry.data,
        num_images=scores.scores.num_images,
        dtype=str(precision.resolve(trained.config.precision, torch.device("cpu"))).removeprefix("torch."),
        ap=entry.ap,
        ap50=entry.ap50,
        ap75=entry.ap75,
        ap_range=ranges[0],
        ap50_range=ranges[1],
        ap75_range=ranges[2],
        per_class="\n".join(
            f"| {one.name} | {one.ap:.3f} | {one.ap50:.3f} | {one.num_objects} |" for one in scores.scores.per_class
        ),
        full_ap=full.scores.ap,
        eval_command=f"detector eval {first} {entry.data} --split test",
        milliseconds=1000 * _seconds(path, test),
        machine=Environment.here(torch.device("cpu")).text().partition(", commit")[0],
        limits="\n".join(f"- {limit}" for limit in (*options.limit, *_seen(columns["train"]))),
        licence=entry.licence,
        data_licence=entry.data_licence,
    )


def _seen(columns: Columns) -> list[str]:
    """What the training pictures were like; of others nothing is known."""
    sizes = sorted({f"{width}x{height}" for height, width in columns.sizes_hw.tolist()})
    boxes = columns.boxes[~columns.is_crowd]
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    low, high = np.quantile(sides, (0.05, 0.95))
    most = int(np.diff(columns.offsets).max())
    return [
        f"Trained on {len(columns)} pictures of {sizes[0] if len(sizes) == 1 else 'several sizes'}"
        f"{' pixels' if len(sizes) == 1 else ''}. Other sources, cameras and colours were not tried.",
        f"Nine in ten of its objects had a side (root of the area) of {low:.0f} to {high:.0f} pixels; at most {most} "
        "stood in a picture.",
    ]


def _seconds(path: Path, columns: Columns) -> float:
    """Median of an image."""
    model = Detector.load(path, device="cpu")
    seconds: list[float] = []
    for row in range(min(len(columns), TIMED_IMAGES + WARM_UP)):
        begun = time.perf_counter()
        model.predict(columns.images / columns.file_name(row))
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[WARM_UP:] or seconds)


def _put(manifest: Path, entry: Entry) -> None:
    """In place of the entry of the same file, beside those of others."""
    others: list[dict[str, Any]] = []
    if manifest.is_file():
        others = [one for one in json.loads(manifest.read_text(encoding="utf-8")) if one["file"] != entry.file]
    entries = sorted([*others, asdict(entry)], key=lambda one: one["file"])
    manifest.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
