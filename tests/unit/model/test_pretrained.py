"""What may be given to --init, and what is refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from detector.errors import CheckpointError
from detector.model import pretrained
from tests.unit.model.weights import SMALL, State, fresh, saved, start, timm_resnet, under


@pytest.fixture(scope="module")
def resnet() -> State:
    return timm_resnet()


def test_none_leaves_the_random_start() -> None:
    assert pretrained.initialise(fresh(), "none", SMALL, ("a", "b")) is None


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('pwned', 'w').close()",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("torch.pth", torch.save),
        ("raw.pth", lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))),
    ):
        write(Evil(), tmp_path / name)
        with pytest.raises(CheckpointError, match="loaded safely"):
            start(fresh(), tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_what_is_fetched_is_checked_by_its_hash_and_holds_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def fetch(url: str, **options: object) -> dict[str, torch.Tensor]:
        assert "resnet18" in url
        asked.append(options)
        return torchvision.models.resnet18().state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    assert pretrained.initialise(fresh(), "imagenet", SMALL, ("a", "b")) is not None
    assert [(options["check_hash"], options["weights_only"]) for options in asked] == [(True, True)]


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_a_damaged_model_of_ours_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name)
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checksum does not fit"):
        start(fresh(), path)


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    assert start(fresh(), saved(tmp_path / "weights.bin")).random == ()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_values_that_are_not_finite_are_refused_and_named(tmp_path: Path, suffix: str) -> None:
    state = {"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.bias": torch.tensor([1.0, float("inf")])}
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(CheckpointError, match=r"w\.\w+: bn1\.bias holds values that are not finite"):
        start(fresh(), path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conv1.weight", torch.ones(64, 3, 7, 7, dtype=torch.int32), "holds int32; give the weights as floating point"),
        ("bn1.running_var", torch.full((64,), -1.0), "holds variances below 0"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(
    tmp_path: Path, resnet: State, name: str, value: torch.Tensor, said: str
) -> None:
    torch.save(resnet | {name: value}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"{name} {said}"):
        start(fresh(), tmp_path / "w.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, longer than a header",
        b"e\n",
        b"",
        b"\x80\x04.",
        b"PK\x03\x04" + bytes(99),
        b"\x89PNG\r\n\x1a\n",
        b"{}",
    ],
)
def test_any_file_gives_one_sentence_of_our_own(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError,
        match=r"model\.pth: is not a weights file that can be loaded safely: it was damaged.*; ",
    ) as caught:
        start(fresh(), path)
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "error", [RuntimeError('invalid hash value (expected "1", got "2")'), URLError("no route"), KeyError("x")]
)
def test_imagenet_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"cannot be fetched .*--init"):
        pretrained.initialise(fresh(), "imagenet", SMALL, ("a", "b"))


def test_refuses_what_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        start(fresh(), tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match="no such weights file"):
        start(fresh(), Path("/dev/zero"))
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"holds no ResNet: .* its 1 tensors .* the first is conv1\.weight"):
        start(fresh(), tmp_path / "odd.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        start(fresh(), tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda wanted, _: under("module.", wanted), ""),
        (lambda wanted, _: under("backbone.", wanted), ""),
        (lambda wanted, _: under("model.", wanted) | {"head.weight": torch.zeros(3)}, ""),
        (lambda wanted, _: {"state_dict": under("module.backbone.", wanted), "epoch": 3}, "(state_dict)"),
        (
            lambda wanted, other: {
                "model": other,
                "model_ema": under("module.", wanted) | {"n_averaged": torch.ones(1)},
            },
            "(model_ema)",
        ),
        (lambda wanted, other: {"ema": {"module": wanted, "updates": 9}, "model": other}, "(ema.module)"),
        (lambda wanted, _: {"model": wanted, "ema": None, "optimizer": {"state": {}}}, "(model)"),
        (lambda wanted, other: {"state_dict": other, "state_dict_ema": wanted}, "(state_dict_ema)"),
    ],
)
def test_what_a_training_wraps_around_weights_is_taken_off(
    tmp_path: Path, resnet: State, wrap: Callable[[State, State], dict[str, object]], where: str
) -> None:
    other = {name: torch.zeros_like(value) for name, value in resnet.items()}
    torch.save(wrap(resnet, other), tmp_path / "w.pth")
    model = fresh()
    assert start(model, tmp_path / "w.pth").source == f"{tmp_path / 'w.pth'} {where}".strip()
    assert torch.equal(model.backbone.conv1.weight, resnet["conv1.weight"])
