import pytest
import torch
from hypothesis import settings

# The first call into torch is slow; wall time is not what these tests judge.
settings.register_profile("detector", deadline=None)
settings.load_profile("detector")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
