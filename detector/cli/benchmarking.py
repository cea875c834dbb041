"""What can be typed after `detector benchmark`, and what is measured then.

torch is imported when the words are understood, not before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import conf

from detector.cli import options
from detector.cli.answer import Answer
from detector.cli.options import AsJson, Debug, Device
from detector.errors import ConfigError

EXAMPLES = """\
examples:
  detector benchmark train --batch-size 4 --rounds 7
  detector benchmark infer --compile --json
  detector benchmark heads --recipe small --batch-size 2 --image-size 320
  detector benchmark eval --num-images 500 --num-detections 50000
  detector benchmark read --polygons
  detector benchmark all --docs docs
"""

Say = Callable[[str], None]
Rounds = Annotated[int, conf.arg(metavar="N", help="Timed repetitions of each way.")]
ImageSize = Annotated[int, conf.arg(metavar="S", help="Side of the images in pixels.")]
BatchSize = Annotated[int, conf.arg(metavar="B", help="Images a step.")]
Count = Annotated[int, conf.arg(metavar="N")]
Compile = Annotated[bool, conf.arg(help="Measure compiled networks too.", help_behavior_hint="")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Common:
    """What every benchmark takes."""

    rounds: Rounds = 5
    as_json: AsJson = False
    debug: Debug = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network(_Common):
    """What the benchmarks beside torchvision's network take."""

    image_size: ImageSize = 640
    compile: Compile = False
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(_Network):
    """A training step beside torchvision's, with the same weights and inputs."""

    batch_size: BatchSize = 4

    def measure(self, say: Say) -> Answer:
        return _networks(self, "train", say)


@dataclass(frozen=True, slots=True, kw_only=True)
class Infer(_Network):
    """Images to detections beside torchvision's, with the same weights and inputs."""

    batch_size: BatchSize = 1

    def measure(self, say: Say) -> Answer:
        return _networks(self, "infer", say)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads(_Common):
    """The heads at once and one after another: memory, time and gradients."""

    recipe: Annotated[
        Literal["small", "standard", "retinanet"] | None, options.shown("NAME", "(default: the last two)")
    ] = None
    """small, standard or retinanet."""
    batch_size: BatchSize = 8
    image_size: ImageSize = 640
    device: Device = "auto"

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import heads, text
        from detector.model import device

        settings = heads.Settings(
            recipes=heads.RECIPES if self.recipe is None else (self.recipe,),
            batch_size=self.batch_size,
            image_size=self.image_size,
            rounds=self.rounds,
        )
        report = heads.measure(settings, device.resolve(self.device), say)
        return Answer(text=text.table(report), values=text.as_json(report))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(_Common):
    """The scoring of two COCO files beside pycocotools', reading included."""

    num_images: Count = 5_000
    """Images of the generated data set."""
    num_objects: Count = 37_000
    """Its objects."""
    num_detections: Count = 500_000
    """Detections to score."""

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import scoring

        settings = scoring.Settings(
            num_images=self.num_images,
            num_objects=self.num_objects,
            num_detections=self.num_detections,
            rounds=self.rounds,
        )
        return _answer(scoring.measure(settings, say))


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(_Common):
    """The reading of one COCO file beside pycocotools'."""

    num_images: Count = 120_000
    """Images of the generated data set."""
    num_objects: Count = 1_000_000
    """Its objects."""
    polygons: Annotated[bool, conf.arg(help="Give every object a polygon.", help_behavior_hint="")] = False

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import reading

        settings = reading.Settings(
            num_images=self.num_images,
            num_objects=self.num_objects,
            polygons=self.polygons,
            rounds=self.rounds,
        )
        return _answer(reading.measure(settings, say))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """How many operations a step takes and how often the host must wait in it, beside torchvision's."""

    batch_size: BatchSize = 16
    as_json: AsJson = False
    debug: Debug = False

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import counting

        report = counting.measure(counting.Settings(batch_size=self.batch_size), say)
        return Answer(text=counting.table(report), values=counting.as_json(report))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(_Common):
    """The decoding, resizing and stacking of JPEG files on one core, beside Pillow and torchvision v2."""

    folder: Annotated[Path | None, options.shown("DATA", "(default: generated pictures)")] = None
    """Data set whose training images are loaded."""
    image_size: ImageSize = 640

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import load

        settings = load.Settings(folder=self.folder, image_size=self.image_size, rounds=self.rounds)
        return _answer(load.measure(settings, say))


@dataclass(frozen=True, slots=True, kw_only=True)
class Data(_Common):
    """Training from files beside training from the same batches in memory."""

    folder: Annotated[Path, conf.Positional, conf.arg(metavar="DATA")]
    """A data set."""
    steps: Count = 40
    """Of each round."""
    device: Device = "auto"

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import data

        settings = data.Settings(folder=self.folder, steps=self.steps, rounds=self.rounds, device=self.device)
        return _answer(data.measure(settings, say))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Where the time of a step goes."""

    batch_size: BatchSize = 4
    image_size: ImageSize = 640
    device: Device = "auto"
    as_json: AsJson = False
    debug: Debug = False

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import profile
        from detector.model import device

        settings = profile.Settings(batch_size=self.batch_size, image_size=self.image_size)
        report = profile.measure(settings, device.resolve(self.device), say)
        return Answer(text=profile.table(report), values=profile.as_json(report))


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth(_Common):
    """How a training step grows with the batch, the image, the classes and the objects."""

    plot: Annotated[Path | None, options.shown("FILE")] = None
    """Picture to write."""
    device: Device = "auto"

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import growth
        from detector.model import device

        report = growth.measure(growth.Settings(rounds=self.rounds), device.resolve(self.device), say)
        if self.plot is not None:
            growth.draw(report, self.plot)
        return Answer(text=growth.table(report), values=growth.as_json(report))


@dataclass(frozen=True, slots=True, kw_only=True)
class All(_Common):
    """Everything, and the page that shows it."""

    data: Annotated[Path, conf.arg(metavar="DATA")] = Path("data/blood-cells")
    """A data set of real images."""
    docs: Annotated[Path | None, options.shown("DIR")] = None
    """Folder with performance.md, whose tables are written anew."""
    only: Annotated[tuple[str, ...], conf.UseAppendAction, options.shown("NAME")] = ()
    """One of them (repeatable)."""
    device: Device = "auto"

    def measure(self, say: Say) -> Answer:
        from detector.benchmark import everything
        from detector.model import device

        settings = everything.Settings(docs=self.docs, data=self.data, rounds=self.rounds, only=self.only)
        shown = everything.measure(settings, device.resolve(self.device), say)
        return Answer(
            text="\n\n".join(f"{name}\n{one.text}" for name, one in shown.items()), values=everything.as_json(shown)
        )


Command = Train | Infer | Operations | Load | Data | Heads | Evaluate | Read | Profile | Growth | All
_Forms = (
    Annotated[Train, conf.subcommand("train")]
    | Annotated[Infer, conf.subcommand("infer")]
    | Annotated[Operations, conf.subcommand("operations")]
    | Annotated[Load, conf.subcommand("load")]
    | Annotated[Data, conf.subcommand("data")]
    | Annotated[Heads, conf.subcommand("heads")]
    | Annotated[Evaluate, conf.subcommand("eval")]
    | Annotated[Read, conf.subcommand("read")]
    | Annotated[Profile, conf.subcommand("profile")]
    | Annotated[Growth, conf.subcommand("growth")]
    | Annotated[All, conf.subcommand("all")]
)


def parse(argv: Sequence[str]) -> Command:
    about = "Measure this program: its speed beside others, its heads, its files."
    return options.parse(_Forms, argv, prog="detector benchmark", examples=EXAMPLES, about=about)


def run(command: Command, say: Say) -> Answer:
    """Measure; `say` is told what goes on.

    Raises:
        ConfigError: a number is below 1, or cannot be measured.
    """
    _require_counts(command)
    return command.measure(say)


def _require_counts(command: Command) -> None:
    for name in ("rounds", "batch_size", "image_size", "num_images", "num_objects", "num_detections", "steps"):
        value = getattr(command, name, 1)
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _answer(report: Any) -> Answer:
    from detector.benchmark import contest

    return Answer(
        text=contest.table(report),
        values=contest.as_json(report),
        warnings=tuple(f"{name} does not find the same" for name, way in report.ways.items() if not way.is_equal),
    )


def _networks(command: Train | Infer, task: Literal["train", "infer"], say: Say) -> Answer:
    from detector.benchmark import networks
    from detector.model import device

    settings = networks.Settings(
        task=task,
        batch_size=command.batch_size,
        image_size=command.image_size,
        rounds=command.rounds,
        compile=command.compile,
    )
    return _answer(networks.measure(settings, device.resolve(command.device), say))
