"""What can be typed after `detector benchmark`, and what is measured then.

torch is imported when the words are understood, not before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro import conf

from detector import options
from detector.answer import Answer
from detector.errors import ConfigError
from detector.options import AsJson, Debug, Device

EXAMPLES = """\
examples:
  detector benchmark train --batch-size 4 --rounds 7
  detector benchmark infer --compile --json
  detector benchmark heads --recipe small --batch-size 2 --image-size 320
  detector benchmark eval --num-images 500 --num-detections 50000
  detector benchmark read --polygons
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
class Train(_Common):
    """A training step beside torchvision's, with the same weights and inputs."""

    batch_size: BatchSize = 4
    image_size: ImageSize = 640
    compile: Compile = False
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Infer(_Common):
    """Images to detections beside torchvision's, with the same weights and inputs."""

    batch_size: BatchSize = 1
    image_size: ImageSize = 640
    compile: Compile = False
    device: Device = "auto"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(_Common):
    """The scoring of two COCO files beside pycocotools', reading included."""

    num_images: Count = 5_000
    """Images of the generated data set."""
    num_objects: Count = 37_000
    """Its objects."""
    num_detections: Count = 500_000
    """Detections to score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(_Common):
    """The reading of one COCO file beside pycocotools'."""

    num_images: Count = 120_000
    """Images of the generated data set."""
    num_objects: Count = 1_000_000
    """Its objects."""
    polygons: Annotated[bool, conf.arg(help="Give every object a polygon.", help_behavior_hint="")] = False


Command = Train | Infer | Heads | Evaluate | Read
_Forms = (
    Annotated[Train, conf.subcommand("train")]
    | Annotated[Infer, conf.subcommand("infer")]
    | Annotated[Heads, conf.subcommand("heads")]
    | Annotated[Evaluate, conf.subcommand("eval")]
    | Annotated[Read, conf.subcommand("read")]
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
    match command:
        case Train() | Infer():
            return _networks(command, say)
        case Heads():
            return _heads(command, say)
        case Evaluate():
            return _evaluate(command, say)
        case Read():
            return _read(command, say)


def _require_counts(command: Command) -> None:
    for name in ("rounds", "batch_size", "image_size", "num_images", "num_objects", "num_detections"):
        value = getattr(command, name, 1)
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _networks(command: Train | Infer, say: Say) -> Answer:
    from detector.benchmark import networks
    from detector.model import device

    settings = networks.Settings(
        task="train" if isinstance(command, Train) else "infer",
        batch_size=command.batch_size,
        image_size=command.image_size,
        rounds=command.rounds,
        compile=command.compile,
    )
    return _answer(networks.measure(settings, device.resolve(command.device), say))


def _heads(command: Heads, say: Say) -> Answer:
    from detector.benchmark import heads, text
    from detector.model import device

    settings = heads.Settings(
        recipes=heads.RECIPES if command.recipe is None else (command.recipe,),
        batch_size=command.batch_size,
        image_size=command.image_size,
        rounds=command.rounds,
    )
    report = heads.measure(settings, device.resolve(command.device), say)
    return Answer(text=text.table(report), values=text.as_json(report))


def _evaluate(command: Evaluate, say: Say) -> Answer:
    from detector.benchmark import scoring

    settings = scoring.Settings(
        num_images=command.num_images,
        num_objects=command.num_objects,
        num_detections=command.num_detections,
        rounds=command.rounds,
    )
    return _answer(scoring.measure(settings, say))


def _read(command: Read, say: Say) -> Answer:
    from detector.benchmark import reading

    settings = reading.Settings(
        num_images=command.num_images,
        num_objects=command.num_objects,
        polygons=command.polygons,
        rounds=command.rounds,
    )
    return _answer(reading.measure(settings, say))


def _answer(report: Any) -> Answer:
    from detector.benchmark import contest

    return Answer(
        text=contest.table(report),
        values=contest.as_json(report),
        warnings=tuple(f"{name} does not find the same" for name, way in report.ways.items() if not way.is_equal),
    )
