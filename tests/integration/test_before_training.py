"""What happens before the first step: the preflight, --dry-run, --batch-size auto."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detector import config_file
from detector.cli import train
from detector.config import RunConfig
from detector.fitting.choice import Fit
from detector.model import detector as network
from detector.model import inference
from detector.run import assembly, batch_size, material, memory, preflight
from detector.run.assembly import Assembly
from detector.run.data_paths import DataPaths
from detector.run.material import Material
from detector.train.distributed import World
from detector.train.learner import Learner
from detector.train.state import LoopState, RandomStreams, TrainingState
from tests.faults.child import NarrowBackbone
from tests.faults.conftest import RUN
from tests.integration import shapes
from tests.integration.conftest import TINY

SETTINGS = {
    "data.image_size": 64,
    "data.batch_size": 2,
    "data.workers": 0,
    "data.crops.share": 0.4,
    "augment.clean_share": 0.0,
    "model.pyramid.width": 16,
    "model.heads.box.tower.width": 16,
    "model.heads.classification.tower.width": 16,
    "balance.kind": "gradnorm",
    "optim.ema_width": 0.1,
    "precision": "float32",
    "length.minutes": None,
    "length.steps": 50,
    "length.evaluations": 3,
    "stages": [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "reset": ["box"]}],
}
TOO_MUCH = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "Backbone", NarrowBackbone)


def settings(changes: dict[str, Any] | None = None) -> RunConfig:
    from detector import recipes

    return config_file.override(recipes.small(), SETTINGS | (changes or {}))


def gathered(data: Path, config: RunConfig) -> Material:
    return material.gather(material.read(DataPaths(folder=data)), config, World(), "none", None)


def made(data: Path, changes: dict[str, Any] | None = None) -> tuple[Assembly, Material]:
    of = gathered(data, settings(changes))
    return assembly.build(of, "none", World()), of


def digest(learner: Learner) -> str:
    """Of every byte that decides how training goes on."""
    state = TrainingState(learner=learner.capture(), loop=LoopState(), random=RandomStreams.capture())
    found = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            take([part for item in value.items() for part in item])
        elif isinstance(value, list | tuple):
            found.update(b"[")
            for item in value:
                take(item)
            found.update(b"]")
        else:
            found.update(repr(value).encode())

    take([state.weights(), state.rest()])
    return found.hexdigest()


def test_it_leaves_training_as_it_was(data: Path) -> None:
    """Weights, norm statistics, averages, optimizer, balancer, stage with its reset head, random streams."""
    of, gathered_material = made(data)
    learner = of.learner
    before = digest(learner)
    found = preflight.run(of, gathered_material, lambda _: None)
    assert digest(learner) == before
    assert (learner.steps, learner.stage, learner.lr, learner.micro_batches) == (0, 0, 0.0, 1)
    assert all(parameter.grad is None for parameter in learner.objective.parameters())
    assert [round(need.phase.share, 6) for need in found.needs] == [0.4, 0.1, 0.5]
    assert (found.estimate.steps, found.estimate.evaluations, found.most_objects) == (50, 3, 2)
    assert all(need.seconds > 0 for need in found.needs)
    assert found.scoring_seconds is not None
    assert found.peak_bytes > 100 << 20  # torch alone is larger


def test_threads_are_tried_by_halves_and_put_back(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number alone: with two threads torch 2.15 writes past the end of the narrow convolutions of these tests."""
    numbers = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: numbers[-1])
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    found = preflight.run(*made(data), lambda _: None).threads
    assert found is not None
    assert (found.num, found.num_half, numbers) == (2, 1, [2, 1, 2])
    assert min(found.seconds, found.seconds_half) > 0
    with pytest.raises(preflight.StoppedError):
        preflight.run(*made(data), lambda _: None, should_stop=lambda: numbers[-1] == 1)
    assert numbers == [2, 1, 2, 1, 2]
    numbers.append(1)
    assert preflight.run(*made(data), lambda _: None).threads is None


def test_a_step_of_it_would_change_all_that_is_put_back(data: Path) -> None:
    """The test above sees something."""
    of, gathered_material = made(data)
    before = digest(of.learner)
    preflight.rehearse(of.learner, gathered_material)
    assert digest(of.learner) != before
    assert of.learner.stage == 1


def test_a_run_ends_with_the_same_bytes_without_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sums: list[str] = []
    for name in ("with", "without"):
        assert train([str(data), "--steps", "5", "--out", str(tmp_path / name), *RUN]) == 0
        sums.append(hashlib.sha256((tmp_path / name / "last.safetensors").read_bytes()).hexdigest())
        assert ("preflight: about" in capsys.readouterr().err) == (name == "with")
        monkeypatch.setattr("detector.run.training._preflight", lambda *_: None)
    assert sums[0] == sums[1]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 8])
def test_a_stop_takes_effect_between_its_parts(number: int, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scored batches, then two steps in each of three phases; with several threads four more, to try them."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    of, gathered_material = made(data)
    done: list[str] = []

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return work(*args, **kwargs)

        return call

    monkeypatch.setattr(Learner, "rehearse", counted("step", Learner.rehearse))
    monkeypatch.setattr(inference, "detect", counted("scored", inference.detect))
    before = digest(of.learner)
    if number == 8:
        preflight.run(of, gathered_material, lambda _: None, lambda: len(done) >= number)
    else:
        with pytest.raises(preflight.StoppedError):
            preflight.run(of, gathered_material, lambda _: None, lambda: len(done) >= number)
    assert done == [*["scored"] * 2, *["step"] * 6][:number]
    assert digest(of.learner) == before


def test_a_stop_before_the_first_image_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, gathered_material = made(data)
    monkeypatch.setattr(preflight, "EvaluationSet", None)
    with pytest.raises(preflight.StoppedError):
        preflight.run(of, gathered_material, lambda _: None, lambda: True)


def test_it_stands_in_the_log_and_not_in_that_of_a_run_that_goes_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train([str(data), "--steps", "2", "--out", str(out), *RUN]) == 0
    assert re.search(r"preflight: about \d+ (s|min) for 2 steps and 2 scorings", (out / "train.log").read_text())
    capsys.readouterr()
    assert train([str(data), "--steps", "4", "--out", str(out), *RUN, "--resume"]) == 0
    assert "preflight" not in capsys.readouterr().err


def test_a_dry_run_says_it_and_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert train([str(data), "--steps", "300", *RUN, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "for 300 steps and 3 scorings" in printed.out
    assert "classes: box, disc" in printed.err
    (few,) = [line for line in printed.err.splitlines() if "warning" in line]
    assert "6 objects to score on are few" in few
    frozen = ["--set", "model.norm=frozen"]
    assert train([str(data), "--steps", "300", *RUN, *frozen, "--dry-run", "--out", "there", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["steps"] == 300
    assert "model.norm = frozen hold still what starts at random" in printed.err
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_a_dry_run_does_not_speak_for_a_run_that_would_go_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train([str(data), "--steps", "1", "--out", str(out), *RUN]) == 0
    assert train([str(data), "--steps", "1", "--out", str(out), *RUN, "--dry-run"]) == 2
    assert "holds a run, which goes on as it began" in capsys.readouterr().err


def greedy(monkeypatch: pytest.MonkeyPatch, is_too_much: Callable[[Learner, int], bool]) -> None:
    rehearse = Learner.rehearse

    def limited(self: Learner, batch: Any, progress: float) -> None:
        rehearse(self, batch, progress)  # which changes it, as a step that fails on its way may
        if is_too_much(self, len(batch.images)):
            raise TOO_MUCH

    monkeypatch.setattr(Learner, "rehearse", limited)


def test_too_little_memory_is_found_before_the_first_step(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, gathered_material = made(data, {"balance.kind": "fixed", "data.batch_size": 4})
    greedy(monkeypatch, lambda learner, size: size / learner.micro_batches > 2)
    before = digest(of.learner)
    said: list[str] = []
    preflight.run(of, gathered_material, said.append)
    assert of.learner.micro_batches == 4  # of the eight cut-outs
    assert digest(of.learner) == before
    assert [line.rpartition("same batches in ")[2][:7] for line in said] == ["2 parts", "4 parts"]


def test_too_little_memory_for_any_number_of_parts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy(monkeypatch, lambda *_: True)
    options = [str(data), "--steps", "2", "--out", str(tmp_path / "run"), *RUN]
    assert train([*options, "--set", "balance.kind=fixed"]) == 1
    assert "set a smaller data.image_size" in capsys.readouterr().err


def test_without_images_the_error_is_that_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = shapes.plain(tmp_path, "train")
    shapes.write(split, count=2, seed=0)
    for image in split.images.iterdir():
        image.write_bytes(b"no picture")
    assert train([str(tmp_path), "--steps", "1", "--out", str(tmp_path / "run"), *TINY, "--dry-run"]) == 3
    assert "none of its 2 images can be read" in capsys.readouterr().err


def test_on_a_cpu_the_batch_size_stays(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for word in RUN if word not in ("--batch-size", "2")]
    assert train([str(data), "--steps", "2", *options, "--batch-size", "auto", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "batch size: 4, that of the settings: on a CPU a larger one saves no time" in said.err
    assert "a step of 4 images" in said.out


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, of: Material, fits: int) -> Material:
    """The material as it would be on a device with room for so many images."""
    monkeypatch.setattr(memory, "available", lambda _: 1000)
    monkeypatch.setattr(memory, "reset_peak", lambda _: None)
    monkeypatch.setattr(memory, "peak", lambda _: 0)
    monkeypatch.setattr(
        assembly,
        "build",
        lambda wanted, init, world, build=assembly.build: build(
            dataclasses.replace(wanted, facts=of.facts), init, world
        ),
    )
    greedy(monkeypatch, lambda _, size: size > fits)
    return dataclasses.replace(of, facts=dataclasses.replace(of.facts, device=torch.device("cuda")))


@pytest.mark.parametrize(
    ("fits", "size", "lr"),
    [(100, 16, 6e-3), (10, 8, 3e-3 * 2**0.5), (2, 2, 3e-3 * 0.5**0.5)],
    ids=["as many as wanted", "as many as fit", "less than the settings say"],
)
def test_the_largest_batch_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int, size: int, lr: float
) -> None:
    shapes.write(shapes.plain(tmp_path, "train"), count=16 * 16, seed=1, size_hw=(48, 64))
    config = settings({"data.batch_size": 4, "data.crops.share": 0.0, "stages": []})
    wanted = on_a_gpu(monkeypatch, gathered(tmp_path, config), fits)
    found = batch_size.choose(wanted, "none", batch_size.Auto(keep_lr=False), World())
    assert found.config.data.batch_size == size
    assert found.config.optim.lr == pytest.approx(lr)
    assert found.identity.config == config_file.dump(found.config)
    assert f"batch size: {size} instead of 4, optim.lr" in found.remarks[0]
    kept = batch_size.choose(wanted, "none", batch_size.Auto(keep_lr=True), World())
    assert kept.config.optim.lr == config.optim.lr

    def refit(size: int) -> Fit:
        anew = config_file.override(config, {"data.batch_size": size, "length.steps": 7, "length.epochs": None})
        return Fit(config=anew, choices=(), about="anew")

    fitted = batch_size.choose(wanted, "none", batch_size.Auto(keep_lr=False), World(), refit)
    assert (fitted.config, fitted.fit) == (refit(size).config, refit(size))
    assert fitted.identity.config == config_file.dump(fitted.config)


def test_a_run_goes_on_with_the_batch_size_that_was_found(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(of: Material, *_: object) -> Material:
        return material.under(of, config_file.override(of.config, {"data.batch_size": 3, "optim.lr": 0.002}))

    monkeypatch.setattr(batch_size, "choose", choose)
    options = [word for word in RUN if word not in ("--batch-size", "2")]
    run = [str(data), *options, "--batch-size", "auto", "--out", str(tmp_path / "run")]
    assert train([*run, "--steps", "2"]) == 0
    monkeypatch.setattr(batch_size, "choose", lambda *_: pytest.fail("it was found before"))
    assert train([*run, "--steps", "4", "--resume"]) == 0
    config = config_file.load(tmp_path / "run" / "config.yaml")
    assert (config.data.batch_size, config.optim.lr, config.length.steps) == (3, 0.002, 4)


@pytest.mark.parametrize("what", ["--dry-run", "--smoke", "--learning-curve"])
def test_what_is_for_one_process_says_so(
    what: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train([str(data), what, *TINY]) == 2
    assert f"{what} is for one process, and torchrun started 2" in capsys.readouterr().err


def test_a_rate_that_is_much_too_high_is_named_by_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--steps", "8", "--lr", "1e10", "--set", "optim.name=sgd", "--set", "optim.warmup_steps=0"]
    assert train([str(data), "--out", str(tmp_path / "run"), *TINY, *options, "--set", "optim.clip_norm=0"]) == 1
    said = capsys.readouterr().err
    assert "preflight: about" in said
    assert "lower optim.lr" in said
