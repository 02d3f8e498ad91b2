"""The tensors of a TorchScript archive, such as OpenAI published CLIP's, without its code.

`torch.jit.load` would run `__setstate__` of the archive's own classes. Here every one of them is a
plain holder of attributes, and of all other names in the pickle only those that make tensors exist.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_LISTS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist"}


def is_script_archive(path: Path) -> bool:
    """Does a zip file have code of TorchScript in it?"""
    with zipfile.ZipFile(path) as archive:
        return any(
            "/code/" in name or name.endswith("/constants.pkl") for name in archive.namelist()
        )


def read_script_archive(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of the archive's module, on the CPU.

    Raises:
        pickle.UnpicklingError: it has other objects than modules and tensors.
        KeyError: a part of the archive is missing.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("/data.pkl"))
        with archive.open(name) as file:
            module = _Reader(file, archive, name.removesuffix(".pkl")).load()
    return dict(_tensors(module, ""))


class _Holder:
    """A module of the archive: its attributes, parameters and submodules."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Reader(pickle.Unpickler):
    """Builds holders and tensors, nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return type("Holder", (_Holder,), {})
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name in _LISTS:
            return list
        raise pickle.UnpicklingError(f"Unsupported global: {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key = pid[:3]
        if kind != "storage":
            raise pickle.UnpicklingError(f"Unsupported class {kind}")
        stored = bytearray(self._archive.read(f"{self._folder}/{key}"))
        return torch.frombuffer(stored, dtype=dtype) if stored else torch.empty(0, dtype=dtype)


def _rebuilt(stored: Tensor, offset: int, size: Any, stride: Any, *_rest: Any) -> Tensor:
    return stored.as_strided(tuple(size), tuple(stride), offset)


def _tensors(holder: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(holder).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Holder):
            yield from _tensors(value, f"{prefix}{name}.")
