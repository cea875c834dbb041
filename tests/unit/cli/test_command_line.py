"""The command line with `detector.run` replaced: what reaches it, what is printed, which code is returned."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import detector
from detector import cli, config, config_file, recipes
from detector.analysis.localization import Bias, LocalizationError
from detector.cli import doors, export_options, options
from detector.cli import settings as resolving
from detector.errors import CheckpointError, ConfigError, DataError, DetectorError
from detector.evaluate.coco import ClassScore, Scores
from detector.fitting.choice import AutoRecipe

SCORES = Scores(
    ap=0.5,
    ap50=0.75,
    ap75=0.25,
    ap_small=-1.0,
    ap_medium=0.5,
    ap_large=0.5,
    ar_1=0.1,
    ar_10=0.2,
    ar_100=0.3,
    ar_small=-1.0,
    ar_medium=0.3,
    ar_large=0.3,
    per_class=(ClassScore(name="r\x1bed", category_id=7, ap=0.5, ap50=0.75, num_objects=3),),
    num_images=2,
    num_detections=5,
    num_tied=0,
    notes=(),
)
UNREADABLE = "b\nad.jpg: no image"


@dataclass
class Run:
    """Stands for `detector.run`: remembers its calls, and answers or raises what the test says."""

    folder: Path
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    error: BaseException | None = None
    interrupted: bool = False
    has_best: bool = True
    passed: bool = True

    def answer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.calls.append((name, args, kwargs))
        sys.stdout.write("a library prints\n")
        if self.error is not None:
            raise self.error
        best = self.folder / "best.safetensors"
        if self.has_best:
            best.touch()
        match name:
            case "train":
                last, scores = self.folder / "last.safetensors", SCORES if self.has_best else None
                return SimpleNamespace(
                    run_folder=self.folder,
                    best=best,
                    last=last,
                    scores=scores,
                    interrupted_by=2 if self.interrupted else None,
                    notes=(),
                    remarks=("interrupted",) if self.interrupted else (),
                    is_first=True,
                )
            case "evaluate":
                return SimpleNamespace(
                    scores=SCORES,
                    intervals=(),
                    thresholds=(),
                    results_path=self.folder / "predictions.json",
                    scores_path=self.folder / "scores.json",
                    unreadable=(UNREADABLE,),
                    is_first=True,
                )
            case "evaluate_files":
                return SCORES, ()
            case "forecast":
                return SimpleNamespace(lines=lambda: ("about a minute",), values=lambda: {"steps": 3})
            case "learning_curve":
                stopped = 2 if self.interrupted else None
                return SimpleNamespace(text=lambda: "a curve", values=dict, interrupted_by=stopped, folder=self.folder)
            case "smoke":
                return SimpleNamespace(text=lambda: "the verdict", values=dict, passed=self.passed)
            case _:
                return SimpleNamespace(
                    folder=self.folder, num_images=2, num_detections=5, unreadable=(UNREADABLE,), is_first=True
                )

    @property
    def only_call(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        (call,) = self.calls
        return call


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    recorder = Run(tmp_path)
    module = ModuleType("detector.run")
    module.DataPaths = module.Auto = SimpleNamespace  # type: ignore[attr-defined]
    for name in ("train", "forecast", "smoke", "learning_curve", "evaluate", "evaluate_files", "predict"):

        def stand_in(*args: Any, _name: str = name, **kwargs: Any) -> Any:
            return recorder.answer(_name, args, kwargs)

        setattr(module, name, stand_in)
    monkeypatch.setitem(sys.modules, "detector.run", module)
    monkeypatch.setattr(detector, "run", module, raising=False)
    return recorder


# Settings


def resolved(*argv: str) -> config.RunConfig | AutoRecipe:
    return resolving.config_of(options.parse_train(["data", *argv]))


def settings(*argv: str) -> config.RunConfig:
    """Without a recipe or a file: on top of `small`."""
    named = ("--recipe", "small") if not {"--recipe", "--config"} & set(argv) else ()
    found = resolved(*argv, *named)
    assert isinstance(found, config.RunConfig)
    return found


def test_the_default_recipe_is_fitted_to_the_data() -> None:
    assert resolved() == resolved("--recipe", "auto") == AutoRecipe(changes={})
    assert resolved("--set", "augment.horizontal_flip=0") == AutoRecipe(changes={"augment.horizontal_flip": 0})
    own = {"data.image_size": 96, "length.epochs": None, "length.steps": 3, "length.minutes": None, "seed": 1}
    assert resolved("--steps", "3", "--image-size", "96", "--set", "seed=1") == AutoRecipe(changes=own)


@pytest.mark.parametrize("has_fit", [False, True])
def test_a_run_of_the_automatic_recipe_goes_on_with_its_own_settings(tmp_path: Path, has_fit: bool) -> None:
    made = config_file.override(recipes.small(), {"data.image_size": 160})
    (tmp_path / "config.yaml").write_text(config_file.dump(made))
    if has_fit:
        (tmp_path / "fit.json").write_text("{}")
    out = ("--out", str(tmp_path))
    assert resolved(*out) == (made if has_fit else AutoRecipe(changes={}))
    assert resolved(*out, "--resume") == made
    assert resolved(*out, "--recipe", "small") == recipes.small()
    longer = config_file.override(made, {"length.minutes": 30.0})
    assert resolved(*out, "--resume", "--minutes", "30") == longer


@pytest.mark.parametrize("name", recipes.NAMES)
def test_recipe_by_name(name: recipes.RecipeName) -> None:
    if name not in recipes.NEED_TEACHER:
        assert settings("--recipe", name) == recipes.make(name)
        return
    with pytest.raises(ConfigError, match=f"recipe {name} learns from a trained model: name it with --teacher"):
        settings("--recipe", name)
    taught = config_file.override(recipes.make(name), {"distill.teacher": "t"})
    assert settings("--recipe", name, "--teacher", "t") == taught


def test_options_reach_their_settings() -> None:
    changed = settings("--image-size", "256", "--batch-size", "3", "--workers", "0", "--lr", "1e-3", "--seed", "7")
    assert (changed.data.image_size, changed.data.batch_size, changed.data.workers) == (256, 3, 0)
    assert (changed.data.cache, settings("--cache", "disk").data.cache) == ("none", "disk")
    assert changed.optim.lr == 1e-3
    assert changed.seed == 7


@pytest.mark.parametrize(
    ("argv", "epochs", "steps", "minutes"),
    [
        (("--epochs", "2.5"), 2.5, None, None),
        (("--steps", "30"), None, 30, None),
        (("--minutes", "4"), None, None, 4.0),
    ],
)
@pytest.mark.parametrize("recipe", recipes.NAMES)
def test_a_length_replaces_that_of_the_recipe(
    recipe: str, argv: tuple[str, ...], epochs: float | None, steps: int | None, minutes: float | None
) -> None:
    teacher = ("--teacher", "t") if recipe in recipes.NEED_TEACHER else ()
    length = settings("--recipe", recipe, *teacher, *argv).length
    assert (length.epochs, length.steps, length.minutes) == (epochs, steps, minutes)


def test_set_changes_any_setting_and_can_be_repeated() -> None:
    changed = settings("--set", "optim.weight_decay=1e-3", "--set", "model.priors.scales=[2, 4]")
    assert changed.optim.weight_decay == 1e-3
    assert changed.model.priors.scales == (2.0, 4.0)


def test_option_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("seed: 5\ndata: {batch_size: 4, image_size: 512}\n")
    changed = settings("--config", str(file), "--batch-size", "2")
    assert changed == config.RunConfig(seed=5, data=config.DataConfig(batch_size=2, image_size=512))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--set", "optim.lrr=1"), "unknown setting 'optim.lrr': did you mean 'optim.lr'"),
        (("--set", "optim.lr=fast"), "optim.lr"),
        (("--set", "optim=1"), "optim is a group of settings"),
        (("--set", "seed"), "--set needs KEY=VALUE, got 'seed'"),
        (("--lr", "nan"), "optim.lr must be finite, got nan"),
        (("--batch-size", "0"), "data.batch_size must be between 1 and 4096, got 0"),
        (("--minutes", "-1"), "length.minutes must be a positive number"),
        (("--lr", "1e-3", "--set", "optim.lr=1e-4"), "optim.lr is set by an option of its own and by --set"),
        (("--lr", "1e-3", "--set", "optim={lr: 1e-4}"), "optim.lr is set by an option of its own and by --set"),
        (("--steps", "9", "--set", "length.epochs=3"), "length.epochs is set by an option of its own and by --set"),
        (("--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
    ],
)
def test_a_wrong_setting_is_named(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("(", r"\(")):
        settings(*argv)
    with pytest.raises(ConfigError, match=message.replace(".", r"\.").replace("(", r"\(")):
        resolved(*argv)  # by the automatic recipe


@pytest.mark.parametrize(
    ("argv", "is_named"),
    [((), False), (("--lr", "1"), True), (("--set", "optim.lr=1"), True), (("--set", "optim={lr: 1}"), True)],
)
def test_who_chose_the_rate_is_known(argv: tuple[str, ...], is_named: bool) -> None:
    assert resolving.names_lr(options.parse_train(["data", *argv])) == is_named


# What reaches the functions


def test_train_passes_everything_on(run: Run) -> None:
    assert cli.main(["train", "cells", "--out", "o", "--init", "imagenet", "--device", "cpu"]) == 0
    name, (data, settled), kwargs = run.only_call
    assert name == "train"
    assert vars(data) == {"folder": Path("cells"), "train_json": None, "val_json": None, "images": None}
    assert settled == AutoRecipe(changes={})
    assert kwargs == {
        "out": Path("o"),
        "init": "imagenet",
        "device": "cpu",
        "resume": False,
        "auto_batch": None,
        "tensorboard": False,
    }


@pytest.mark.parametrize(("argv", "keep_lr"), [((), False), (("--lr", "0.1"), True), (("--set", "optim.lr=0.1"), True)])
def test_an_automatic_batch_size_keeps_the_rate_that_was_named(run: Run, argv: tuple[str, ...], keep_lr: bool) -> None:
    assert cli.main(["train", "d", "--batch-size", "auto", "--tensorboard", *argv]) == 0
    _, (_, settled), kwargs = run.only_call
    assert settled.changes == ({"optim.lr": 0.1} if argv else {})
    assert kwargs["auto_batch"] == SimpleNamespace(keep_lr=keep_lr)
    assert kwargs["tensorboard"]


def test_a_dry_run_asks_for_a_forecast(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "d", "--dry-run", "--out", "o", "--json"]) == 0
    name, (data, _), kwargs = run.only_call
    assert (name, data.folder, kwargs["out"]) == ("forecast", Path("d"), Path("o"))
    assert json.loads(capsys.readouterr().out) == {"steps": 3}


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_code_of_a_smoke_test(run: Run, passed: bool, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    run.passed = passed
    assert cli.main(["train", "d", "--smoke", "--image-size", "96"]) == code
    name, (_, settled), _ = run.only_call
    assert (name, settled.changes["data.image_size"]) == ("smoke", 96)
    assert capsys.readouterr().out == "the verdict\n"


@pytest.mark.parametrize(("interrupted", "code"), [(False, 0), (True, 130)])
def test_a_learning_curve(run: Run, interrupted: bool, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    run.interrupted = interrupted
    assert cli.main(["train", "d", "--learning-curve", "--steps", "9", "--out", "o", "--init", "imagenet"]) == code
    name, (data, settled), kwargs = run.only_call
    assert (name, data.folder, settled.changes["length.steps"]) == ("learning_curve", Path("d"), 9)
    assert (kwargs["out"], kwargs["init"], kwargs["device"]) == (Path("o"), "imagenet", "auto")
    shown = capsys.readouterr()
    assert shown.out == "a curve\n"
    assert ("goes on" in shown.err) == interrupted


def test_train_takes_files_instead_of_a_folder(run: Run) -> None:
    assert cli.main(["train", "--train-json", "a.json", "--val-json", "b.json", "--images", "i"]) == 0
    data = run.only_call[1][0]
    assert vars(data) == {
        "folder": None,
        "train_json": Path("a.json"),
        "val_json": Path("b.json"),
        "images": Path("i"),
    }


def test_eval_of_a_model(run: Run) -> None:
    assert cli.main(["eval", "m.safetensors", "cells", "--split", "val", "--out", "o"]) == 0
    name, (checkpoints, data), kwargs = run.only_call
    assert (name, checkpoints, data.folder) == ("evaluate", (Path("m.safetensors"),), Path("cells"))
    rest = {"device": "auto", "engine": "hotcoco", "write_thresholds": None, "decode": {}}
    assert kwargs == {"split": "val", "out": Path("o"), **rest}


@pytest.mark.parametrize("words", [["eval", "m.safetensors", "cells"], ["predict", "m.safetensors", "a.jpg"]])
def test_how_boxes_are_read_off_can_be_set(run: Run, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main([*words, "--set", "decode.mirror=false", "--set", "decode.nms_iou=0.5"]) == 0
    assert run.only_call[2]["decode"] == {"mirror": False, "nms_iou": 0.5}
    run.calls.clear()
    assert cli.main([*words, "--set", "decode={mirror: false}"]) == 0
    assert run.only_call[2]["decode"] == {"mirror": False}
    assert cli.main([*words, "--set", "optim.lr=1"]) == 2
    assert "--set optim.lr: a trained model takes settings of decode alone" in capsys.readouterr().err


def test_eval_and_predict_of_several_models(run: Run) -> None:
    assert cli.main(["eval", "a.safetensors", "b.safetensors", "cells"]) == 0
    assert cli.main(["predict", "a", "b.safetensors", "c.safetensors", "one.jpg", "two.safetensors"]) == 0
    (_, (of_eval, data), _), (_, (of_predict, sources), _) = run.calls
    assert (of_eval, data.folder) == ((Path("a.safetensors"), Path("b.safetensors")), Path("cells"))
    assert of_predict == (Path("a"), Path("b.safetensors"), Path("c.safetensors"))
    assert sources == ("one.jpg", "two.safetensors")


def test_eval_takes_one_data_set(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "a.safetensors", "cells", "more"]) == 2
    assert "one data set, got 'cells' and 'more'" in capsys.readouterr().err


def test_import_runs_a_module_of_the_user_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "heads_of_mine.py").write_text("print('was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["predict", "m", "i", "--import", "heads_of_mine"]) == 0
    assert "was imported" in capsys.readouterr().err
    sys.modules.pop("heads_of_mine")


def test_import_of_nothing_is_a_configuration_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "m", "i", "--import", "no_such_module"]) == 2
    assert "--import no_such_module: No module named 'no_such_module'" in capsys.readouterr().err
    assert run.calls == []


def test_eval_takes_a_file_instead_of_a_folder(run: Run) -> None:
    assert cli.main(["eval", "m.safetensors", "--annotations", "a.json", "--images", "i"]) == 0
    data = run.only_call[1][1]
    assert vars(data) == {"folder": None, "annotations": Path("a.json"), "images": Path("i")}


def test_eval_of_files(run: Run) -> None:
    assert cli.main(["eval", "--ground-truth", "gt.json", "--predictions", "dt.json"]) == 0
    assert run.only_call == ("evaluate_files", (Path("gt.json"), Path("dt.json")), {"engine": "hotcoco"})


@pytest.mark.parametrize("argv", [["m.safetensors", "cells"], ["--ground-truth", "a.json", "--predictions", "b.json"]])
def test_eval_by_pycocotools(run: Run, argv: list[str]) -> None:
    assert cli.main(["eval", *argv, "--engine", "pycocotools"]) == 0
    assert run.only_call[2]["engine"] == "pycocotools"


def test_predict_takes_many_sources(run: Run) -> None:
    assert cli.main(["predict", "m.safetensors", "a.jpg", "b/", "--score", "0.5", "--device", "cpu"]) == 0
    name, args, kwargs = run.only_call
    assert (name, args) == ("predict", ((Path("m.safetensors"),), ("a.jpg", "b/")))
    assert callable(kwargs.pop("say"))
    assert kwargs == {"out": None, "score": 0.5, "device": "cpu", "decode": {}, "compile_network": False}


def test_split_defaults_to_test_and_score_to_the_models_own(run: Run) -> None:
    cli.main(["eval", "m", "d"])
    cli.main(["predict", "m", "d"])
    assert [call[2].get("split", call[2].get("score")) for call in run.calls] == ["test", None]


# What is printed

COMMANDS = (
    ["train", "d"],
    ["eval", "m", "d"],
    ["eval", "--ground-truth", "g", "--predictions", "p"],
    ["predict", "m", "i"],
)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_json_is_one_object_on_standard_output(run: Run, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert cli.main([*argv, "--json"]) == 0
    printed = capsys.readouterr()
    assert isinstance(json.loads(printed.out), dict)
    assert "a library prints" in printed.err


def test_a_class_makes_no_line_in_what_report_says(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_report(*_: object, say: Any, **__: object) -> Any:
        say("looked at c\nerror: d")
        straight = Bias(relative=0.0, pixels=0.0, spread=0.01, standard_error=0.001, surely=(-0.01, 0.01))
        every = LocalizationError(
            group="all", num_pairs=99, right=straight, down=straight, wide=straight, tall=straight,
            ap_gain=0.0, ap75_gain=0.0,
        )  # fmt: skip
        left = replace(straight, relative=-0.1, surely=(-0.11, -0.09), pixels=-3.0)
        leaning = replace(every, group="a\nerror: b", ap_gain=0.01, right=left)
        analysis = SimpleNamespace(
            scores=SCORES, intervals=(), errors=(), localization=(every, leaning), truth=SimpleNamespace(names=("a",)),
            points=(SimpleNamespace(threshold=0.4),), are_thresholds_given=True,
        )  # fmt: skip
        return SimpleNamespace(analysis=analysis, path=Path("p"), labels_path=Path("l"))

    monkeypatch.setattr(sys.modules["detector.run"], "report", of_report, raising=False)
    assert cli.main(["report", str(run.folder)]) == 0
    printed = capsys.readouterr()
    assert r"  a\nerror: b: boxes 10.0 ± 0.2 % of a side too far left (about 3.0 px) (99 pairs); " in printed.out
    assert r"looked at c\nerror: d" in printed.err.splitlines()
    assert cli.main(["report", str(run.folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["thresholds"], answer["thresholds_from"]) == ({"a": 0.4}, "model file")


def test_json_of_train(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "d", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["model"] == str(run.folder / "best.safetensors")
    assert answer["interrupted"] is False
    assert answer["scores"]["ap50"] == 0.75


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_result_goes_to_standard_output_and_nothing_else_does(
    run: Run, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    run.folder = run.folder / "red\x1b[31m"
    run.folder.mkdir()
    cli.main(argv)
    printed = capsys.readouterr()
    assert "a library prints" not in printed.out
    assert ("0.750" in printed.out) == (argv[0] != "predict")
    assert "\x1b" not in printed.out


@pytest.mark.parametrize(
    ("argv", "what"),
    [(["predict", "m", "i"], "left out"), (["eval", "m", "d"], "its objects count as missed")],
    ids=["predict", "eval"],
)
def test_unreadable_images_are_named_on_one_line_each(
    run: Run, capsys: pytest.CaptureFixture[str], argv: list[str], what: str
) -> None:
    assert cli.main(argv) == 0
    assert rf"warning: {what}: b\nad.jpg: no image" in capsys.readouterr().err.splitlines()
    cli.main([*argv, "--json"])
    assert json.loads(capsys.readouterr().out)["unreadable"] == [UNREADABLE]


@pytest.mark.parametrize(("has_best", "name"), [(True, "best.safetensors"), (False, "last.safetensors")])
def test_interrupted_training_says_where_the_model_is(
    run: Run, capsys: pytest.CaptureFixture[str], has_best: bool, name: str
) -> None:
    run.interrupted, run.has_best = True, has_best
    assert cli.main(["train", "d"]) == 130
    printed = capsys.readouterr()
    assert f"model  {run.folder / name}" in printed.out
    assert "warning: interrupted" in printed.err


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DetectorError("a\nb"), 1),
        (ConfigError("a\nb"), 2),
        (DataError("a\nb"), 3),
        (CheckpointError("a\nb"), 4),
        (KeyboardInterrupt(), 130),
        (RuntimeError("a\nb"), 1),
        (BrokenPipeError("a\nb"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_an_error_is_one_line_and_a_code(
    run: Run, capsys: pytest.CaptureFixture[str], argv: list[str], error: BaseException, code: int
) -> None:
    run.error = error
    assert cli.main(argv) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("a library prints\nerror: ")
    assert printed.err.count("\n") == 2
    # Only what is nobody's plan points at the traceback.
    assert ("--debug" in printed.err) == (type(error) in {RuntimeError, BrokenPipeError})


def test_debug_shows_the_traceback(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.error = DataError("bad.json: broken")
    assert cli.main(["train", "d", "--debug"]) == 3
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("error: bad.json: broken\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train"], "train needs DATA"),
        (["train", "--images", "i"], "train needs DATA"),
        (["train", "--val-json", "v"], "train needs DATA"),
        (["train", "d", "--images", "i"], "--images goes with --train-json"),
        (["train", "d", "--dry-run", "--smoke"], "--dry-run has no meaning beside --smoke"),
        (["train", "d", "--dry-run", "--tensorboard"], "--tensorboard has no meaning beside --dry-run"),
        (["train", "d", "--dry-run", "--resume", "--out", "o"], "--resume has no meaning beside --dry-run"),
        (["train", "d", "--smoke", "--out", "o"], "--out has no meaning beside --smoke"),
        (["train", "d", "--learning-curve", "--smoke"], "--learning-curve has no meaning beside --smoke"),
        (["train", "d", "--learning-curve", "--resume", "--out", "o"], "--resume has no meaning"),
        (["train", "d", "--smoke", "--minutes", "2"], "--epochs, --steps or --minutes has no meaning beside --smoke"),
        (["train", "d", "--smoke", "--batch-size", "auto"], "--batch-size auto has no meaning beside --smoke"),
        (["eval"], "eval needs CHECKPOINT and DATA"),
        (["eval", "m"], "eval needs CHECKPOINT and DATA"),
        (["eval", "--ground-truth", "g"], "go together"),
        (["eval", "--predictions", "p"], "go together"),
        (["eval", "m", "--ground-truth", "g", "--predictions", "p"], "CHECKPOINT has no meaning"),
        (["eval", "m", "--images", "i"], "eval needs CHECKPOINT and DATA"),
        (["eval", "m", "d", "--images", "i"], "--images goes with --annotations"),
        (["eval", "m", "d", "--annotations", "a"], "--annotations and DATA 'd' both name the data"),
        (["eval", "m", "--annotations", "a", "--split", "val"], "--split has no meaning beside --annotations"),
        (["eval", "--annotations", "a"], "eval needs CHECKPOINT and DATA"),
        (["eval", "--images", "i", "--ground-truth", "g", "--predictions", "p"], "--images has no meaning"),
        (["eval", "--split", "val", "--ground-truth", "g", "--predictions", "p"], "--split has no meaning"),
        (["eval", "--out", "o", "--ground-truth", "g", "--predictions", "p"], "--out has no meaning"),
        (["eval", "--device", "cpu", "--ground-truth", "g", "--predictions", "p"], "--device has no meaning"),
        (["predict"], "predict needs a CHECKPOINT"),
        (["predict", "m"], "predict needs a CHECKPOINT and at least one SOURCE"),
        (["predict", "m", "i", "--score", "1.5"], "--score must be between 0 and 1, got 1.5"),
        (["predict", "m", "i", "--score", "nan"], "--score must be between 0 and 1, got nan"),
        (["train", "d", "--recipe", "smal"], "--recipe 'smal': did you mean 'small'?"),
        (["train", "d", "--recipe", "zzz"], "--recipe 'zzz': known: auto, small, standard"),
        (["trian", "d"], "no command 'trian'; did you mean 'train'?"),
        (["frobnicate"], "no command 'frobnicate'; known: train, eval, predict"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_error(run: Run, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert cli.main(argv) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert run.calls == []


# Help


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: detector {command}")
    assert max(map(len, lines[command == "benchmark" :])) <= 80  # its usage names its eleven parts in one line
    assert "examples:" in lines


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert cli.main([flag]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {command} " in printed for command in cli.COMMANDS)
    assert max(map(len, printed.splitlines())) <= 80


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"detector {metadata.version('detector')}\n"
    assert "detector --version" in doors.HELP

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert cli.main(["--version"]) == 0
    assert "not installed" in capsys.readouterr().out


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: detector")


@pytest.mark.parametrize(
    ("form", "examples"),
    [("train", options.TRAIN_EXAMPLES), ("eval", options.EVAL_EXAMPLES), ("predict", options.PREDICT_EXAMPLES)],
)
def test_examples_parse(run: Run, monkeypatch: pytest.MonkeyPatch, form: str, examples: str) -> None:
    monkeypatch.setattr(config_file, "load", lambda path: recipes.small())
    lines = [
        line.split() for line in [*examples.splitlines(), *doors.HELP.splitlines()] if line.startswith("  detector ")
    ]
    assert len(lines) >= 3
    for _, *argv in lines:
        assert cli.main(argv) == 0, argv


def test_examples_of_export_parse() -> None:
    examples = [line.split() for line in export_options.EXPORT_EXAMPLES.splitlines() if line.startswith("  detector ")]
    assert len(examples) == 2
    for _, command, *argv in examples:
        assert command == "export"
        assert export_options.parse_export(argv).out == Path("small.safetensors")


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]], ids=" ".join)
def test_a_closed_pipe_is_no_traceback(argv: list[str]) -> None:
    # Unbuffered output would fail at once; buffered output is the case that fails at the very end.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "detector", *argv]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before the child has written anything
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() in {0, 1}
    assert error == ""
