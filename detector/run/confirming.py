"""One truth: a run ends by scoring the file of its best model anew, and must find the numbers of training again.

The file is loaded from the disk and run as `detector eval` runs it, what it finds is written, and that file is scored.
The results stay beside the model, where `detector report` looks for them.

A run whose scores are not confirmed is not finished: the same command looks at the file again, and where the file was
moved away, it scores the last model and takes that. So it does where a run is finished and its file was lost later.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from detector import files
from detector.config import RunConfig
from detector.data.layout import SplitFiles
from detector.errors import CheckpointError, ConfigError
from detector.evaluate import coco, sizes, text
from detector.evaluate.coco import Scores, Truth
from detector.evaluate.results import Results
from detector.run import best_scores, scoring
from detector.run.best_scores import BestScores
from detector.run.material import Material
from detector.run.scoring import Seen
from detector.train.checkpoint import Identity, Loaded
from detector.train.distributed import World
from detector.train.run_folder import RunFolder
from detector.train.state import RandomStreams

CLOSE: Final = 1e-3
_RESULTS: Final = "eval-val"
_OF_SIZE: Final = (0, 0, 0, 1, 2, 3, 0, 0, 0, 1, 2, 3)  # range of areas of each of the twelve


def circumstances(config: RunConfig, identity: Identity, world: World) -> dict[str, Any]:
    """What the last bits of scores depend on, besides model and data."""
    return {
        "device": identity.device,
        "precision": identity.precision,
        "processes": world.size,
        # Without an average the very network that trains is scored, compiled; its file never is.
        "compiled": config.compile and config.optim.ema_width == 0,
        **identity.environment,
    }


def confirm(
    folder: RunFolder,
    split: SplitFiles,
    world: World,
    now: Mapping[str, Any],
    *,
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
    dtype: torch.dtype,
) -> None:
    """Score the best model anew, unless somebody asks to stop; weights and random streams stay as they are.

    Raises:
        CheckpointError: the file is damaged, or gives other numbers than those that training noted.
    """
    streams = RandomStreams.capture()
    try:
        with _at_hand(folder.best, world) as best:
            seen = scoring.look([best], split, world, should_stop=should_stop, dtype=dtype)
    finally:
        streams.restore()  # building a network draws its first weights
    error: CheckpointError | None = None
    if world.is_first:
        try:
            say(_verdict(folder, seen, now))
        except CheckpointError as found:
            error = found
    error = world.share(error)
    if error is not None:
        raise error


def of_finished(folder: RunFolder, material: Material, world: World) -> tuple[str, ...]:
    """What is to be said of the best model of a finished run. One that is not the file that was confirmed is scored.

    So a run whose end was hurried is confirmed later, and a file that was changed since is found.

    Raises:
        CheckpointError: as `confirm`.
    """
    if material.val_columns is None:
        return ()
    split = SplitFiles(annotations=material.val_columns.annotations, images=material.val_columns.images)
    now = circumstances(material.config, material.identity, world)
    dtype = material.facts.dtype
    if not world.share(folder.best.is_file() if world.is_first else None):
        if not world.share(folder.last.is_file() if world.is_first else None):
            return (f"{folder.best} and {folder.last.name} are gone",)
        return _take_last(folder, split, world, now, dtype)
    if world.share(_is_confirmed(folder) if world.is_first else None):
        return ()
    said: list[str] = []
    confirm(folder, split, world, now, say=said.append, should_stop=lambda: False, dtype=dtype)
    return tuple(said)


def _take_last(
    folder: RunFolder, split: SplitFiles, world: World, now: Mapping[str, Any], dtype: torch.dtype
) -> tuple[str, ...]:
    """Score the last model of a finished run, and let it take the place of the best one, which is gone."""
    with _at_hand(folder.last, world) as last:
        seen = scoring.look([last], split, world, dtype=dtype)
    if not world.is_first or seen is None:
        return ()
    truth = coco.read_truth(seen.annotations)
    scores = coco.score_against(truth, seen.results, source=str(folder.last))
    # The model comes after its scores: a process that is killed between leaves none that is called the best.
    best_scores.write(folder, BestScores(scores=scores, scored_on=now, confirmed=files.sha256(folder.last)))
    with files.written_whole(folder.best) as temporary:
        shutil.copyfile(folder.last, temporary)
    with suppress(ConfigError), scoring.claimed(folder.path / _RESULTS) as place:  # else the report scores anew
        scoring.scored(place, dataclasses.replace(seen, checkpoints=(folder.best,)), truth)
    return (f"{folder.best.name} was gone: {folder.last.name} is in its place, AP {scores.ap:.3f}",)


def without_lost(folder: RunFolder, loaded: Loaded) -> Loaded:
    """The checkpoint; where the file of the best model is gone, the next model that is scored will be the best."""
    loop = loaded.state.loop
    if loop.best is None or folder.best.is_file():
        return loaded
    state = dataclasses.replace(loaded.state, loop=dataclasses.replace(loop, best=None))
    remark = f"{folder.best.name} is gone: the next model that is scored takes its place"
    return dataclasses.replace(loaded, state=state, remarks=(*loaded.remarks, remark))


def _is_confirmed(folder: RunFolder) -> bool:
    noted = best_scores.read(folder)
    return noted is not None and noted.confirmed == files.sha256(folder.best)


def _verdict(folder: RunFolder, seen: Seen | None, now: Mapping[str, Any]) -> str:
    name = folder.best.name
    if seen is None:
        return f"scores of {name} not confirmed: asked to stop"
    noted = best_scores.read(folder)
    if noted is None:
        return f"warning: scores of {name} not confirmed: {folder.best_scores} cannot be read"
    truth = coco.read_truth(seen.annotations)
    try:
        with scoring.claimed(folder.path / _RESULTS) as place:
            written = scoring.scored(place, seen, truth).results_path
            found = coco.score_against(truth, Results.read(written), source=str(written))
    except ConfigError as error:  # no reason to fail: nothing says that the numbers differ
        return f"warning: scores of {name} not confirmed: {error}"
    is_exact = noted.scored_on == now and now["device"] == "cpu" and now["processes"] == 1 and not now["compiled"]
    require_same(folder.best, noted.scores, found, np.zeros(12) if is_exact else tolerances(truth))
    with suppress(OSError):  # it is looked at once more than needed, then
        best_scores.write(folder, dataclasses.replace(noted, confirmed=files.sha256(folder.best)))
    how = "" if is_exact else f" to {CLOSE:g}"
    return f"scores of {name} confirmed{how}: AP {found.ap:.3f}"


def tolerances(truth: Truth) -> np.ndarray[Any, np.dtype[np.float64]]:
    """By how much each of the twelve may differ where rounding does: a thousandth, or what one object weighs.

    An object whose overlap lies at a threshold is found by one rounding and missed by the other. Mean AP and recall
    have ten thresholds, of which that is one.
    """
    real = ~truth.objects.is_crowd
    areas, classes = truth.objects.areas[real], truth.objects.class_rows[real]
    made: list[float] = []
    for k, size in enumerate(_OF_SIZE):
        counts = np.bincount(classes[sizes.within(areas, size)])
        counts = counts[counts > 0]
        thresholds = 1 if k in (1, 2) else 10
        one = 1 / (thresholds * len(counts) * int(counts.min())) if len(counts) else 0.0
        made.append(max(CLOSE, one))
    return np.array(made)


def require_same(best: Path, noted: Scores, found: Scores, allowed: np.ndarray[Any, np.dtype[np.float64]]) -> None:
    """See that the twelve numbers agree.

    Raises:
        CheckpointError: naming those that do not.
    """
    rows = zip(text.NAMES, noted.twelve(), found.twelve(), allowed.tolist(), strict=True)
    wrong = [(name, was, now) for name, was, now, limit in rows if abs(now - was) > limit]
    if not wrong:
        return
    told = "; ".join(f"{name}: {was!r} in training, {now!r} from the file" for name, was, now in wrong)
    raise CheckpointError(
        f"{best}: scored anew, it gives other numbers than in training: {told} ({len(wrong)} of 12 differ). The "
        "file is not what was scored, or is not run as it was: do not trust it. The same command looks at it again; "
        "once it is moved away, the same command scores the last model and takes that"
    )


@contextmanager
def _at_hand(best: Path, world: World) -> Generator[Path]:
    """The file, or a copy of it: other machines may not see the run folder."""
    content = world.share(best.read_bytes() if world.is_first and world.size > 1 else b"")
    if world.is_first:
        yield best
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, best.name)
        copy.write_bytes(content)
        yield copy
