import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The first call into torch is slow; wall time is not what these tests judge.
settings.register_profile("detector", deadline=None)
settings.load_profile("detector")
# With several threads torch 2.15 writes past the end of the narrow convolutions that tests have (1x1, stride 2, 8 to 16
# channels, float32), and processes get in one another's way. Those that tests start inherit it.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cache of whoever runs the tests is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
