"""Files of `torch.save` that a stranger may have made: plain values, and in memory no more than on the disk.

`weights_only` runs no code, but it calls constructors with any size, takes tensors that claim more numbers than they
have, and unpacks whatever was compressed. So the pickle is looked through before it is loaded, and its tensors after.
"""

import os
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any, Final, cast

import torch
from torch import Tensor

from detector import files

MOST_VALUES: Final = 1_000_000
_ZIP = b"PK\x03\x04"
_PICKLES_OF_OLD = 5  # of which a file from before torch 1.6 consists
_KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ALLOWED: Final = frozenset(
    {
        "collections OrderedDict",
        "collections Counter",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch Size",
        "torch device",
        *(f"torch {kind}Storage" for kind in _KINDS),
    }
)

_NAMES_ELSEWHERE = ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
"""Ask for something whose name does not stand beside them."""


class NotPlainError(ValueError):
    """Why a file cannot be read; the words fit behind its name."""


def read(path: Path) -> Any:
    """What was saved, on the CPU.

    Raises:
        NotPlainError: it is something else, or asks for more than plain values.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        is_zip = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        try:
            if is_zip:
                _check_zip(file, size)
            else:
                for _ in range(_PICKLES_OF_OLD):
                    _check_pickle(file)
            content = torch.load(path, map_location="cpu", weights_only=True)
        except NotPlainError:
            raise
        except Exception as error:  # unpickling bytes that are no pickle raises anything, a KeyError for one
            raise NotPlainError("it was damaged, or is no file of torch.save") from error
    _check_values(content, size)
    return content


def write(path: Path, content: object) -> None:
    """Save plain values.

    Raises:
        OSError: what the system says; of a path, torch would say where in its own code it noticed.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        raise files.os_error(error) from error


def _check_zip(file: IO[bytes], size: int) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        # As torch finds them, which takes upper and lower case for the same.
        names = [entry.filename.casefold() for entry in entries]
        if len(set(names)) < len(names):
            raise NotPlainError("two of its entries have the same name")
        is_packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if is_packed or sum(entry.file_size for entry in entries) > size:
            raise NotPlainError("it unpacks to more bytes than it has")
        if any(name.endswith("/constants.pkl") for name in names):
            raise NotPlainError("it is a program (TorchScript)")
        for entry, name in zip(entries, names, strict=True):
            if name.endswith(".pkl"):
                _check_pickle(archive.read(entry))


def _check_pickle(source: IO[bytes] | bytes) -> None:
    """Look through one pickle without loading it."""
    for opcode, argument, _ in pickletools.genops(source):
        if opcode.name in _NAMES_ELSEWHERE:
            raise NotPlainError(f"its pickle has {opcode.name}, which torch.save does not write")
        if opcode.name == "GLOBAL" and argument not in _ALLOWED:
            raise NotPlainError(f"it asks for {str(argument).replace(' ', '.')!r}, which is no plain value")


def _check_values(content: object, size: int) -> None:
    """See that nothing is larger than its data; what stands in several places counts each time."""
    stored: dict[int, int] = {}
    left = [content]
    count = 0
    while left:
        value = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise NotPlainError(f"it holds more than {MOST_VALUES} values")
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            if value.numel() * value.element_size() > storage.nbytes():
                raise NotPlainError("it holds a tensor that claims more numbers than it has")
            stored[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            left += cast("dict[object, object]", value).keys()
            left += cast("dict[object, object]", value).values()
        elif isinstance(value, (list, tuple)):
            left += cast("list[object]", value)
    if sum(stored.values()) > size:
        raise NotPlainError("it holds a tensor that claims more numbers than the file has")
