"""The world that torchrun's environment describes; worlds of several processes are in tests/faults."""

import pytest
import torch

from detector.errors import ConfigError
from detector.train import distributed

CPU = torch.device("cpu")


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined(CPU) as world:
        assert (world.rank, world.size, world.device, world.is_first) == (0, 1, CPU, True)
        assert world.share("a") == "a"
        assert world.gather("a") == ["a"]
        assert world.highest([1.0, 2.0]) == [1.0, 2.0]
    assert not torch.distributed.is_initialized()


def test_an_environment_that_is_not_torchruns_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE=two: must be a whole number"), distributed.joined(CPU):
        pass


@pytest.mark.parametrize(
    ("device", "reason"),
    [("cuda", "process 2 of this machine finds only 2 GPUs"), ("cuda:1", "torchrun gives each process its own")],
)
def test_each_process_needs_a_gpu_of_its_own(device: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "2"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=reason), distributed.joined(torch.device(device)):
        pass
