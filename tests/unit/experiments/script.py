"""Scripts of tools/experiments as modules."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[3] / "tools" / "experiments"


def load(name: str) -> ModuleType:
    """They import one another by their bare names, as when they are run."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
