"""Whatever happens to the newest checkpoint of a run is found, said, and the one before it is taken."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.train.checkpoint import Store

FLIPS, CUTS, PAGES = 1000, 400, 200
PAGE = 4096


@pytest.fixture
def store(undisturbed: Path, tmp_path: Path) -> Store:
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    return Store(tmp_path / "checkpoints")


def flipped(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(-(-len(content) // PAGE)) * PAGE
    page = content[start : start + PAGE]
    blank = b"\0" if any(page) else b"\xff"
    return content[:start] + blank * len(page) + content[start + PAGE :]


@pytest.mark.faults
@pytest.mark.parametrize(("damage", "count"), [(flipped, FLIPS), (cut, CUTS), (zeroed, PAGES)])
def test_all_damage_is_found(store: Store, damage: Callable[[bytes, random.Random], bytes], count: int) -> None:
    rng = random.Random(damage.__name__)
    before, newest = store.paths()
    parts = sorted(newest.iterdir())
    found = 0
    for _ in range(count):
        part = rng.choice(parts)
        whole = part.read_bytes()
        broken = damage(whole, rng)
        assert broken != whole
        part.write_bytes(broken)
        loaded = store.read_newest()
        part.write_bytes(whole)
        assert loaded is not None
        found += loaded.path == before and len(loaded.remarks) == 1 and str(part) in loaded.remarks[0]
    assert found == count
    loaded = store.read_newest()
    assert loaded is not None
    assert (loaded.path, loaded.remarks) == (newest, ())
