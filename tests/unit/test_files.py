"""What is said where a result cannot be written."""

import errno
import os
from pathlib import Path

import pytest

from detector import files


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space, or choose another --out"),
        (errno.EDQUOT, "free some space, or choose another --out"),
        (errno.EFBIG, "lift the limit on the size of a file (ulimit -f), or choose another --out"),
        (errno.EIO, "see whether the disk is well, or choose another --out"),
        (errno.EACCES, "choose another --out"),
        (errno.ENOTDIR, "choose another --out"),
    ],
)
def test_the_cure_is_that_of_the_cause(number: int, cure: str) -> None:
    said = files.no_output(Path("out"), OSError(number, os.strerror(number)))
    assert said == f"out: cannot be written ({os.strerror(number)}); {cure}"
