"""Tensor bodies: the safetensors format, read as if every byte were hostile.

Layout (https://github.com/huggingface/safetensors#format):

    bytes 0..8        n, length of the header, unsigned 64-bit little-endian
    bytes 8..8+n      JSON: {"__metadata__": {str: str}, NAME: {"dtype", "shape", "data_offsets"}}
    bytes 8+n..       the tensors' values, little-endian, row-major, back to back

The safetensors library reads what `encode` writes and the reverse (a property test holds both).
We keep our own reader because a server must say *which* rule a body broke, must never copy a
population of prompts, and must refuse duplicate names, holes, overlaps and trailing bytes alike.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from craft_shared.errors import CraftProtocolError
from craft_shared.limits import MAX_HEADER_COMMAS, MAX_TENSOR_HEADER_BYTES

TENSOR_MEDIA_TYPE = "application/x-safetensors"

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I16": np.dtype("<i2"),
}
"""Number formats that may cross the boundary, by their safetensors names."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_MAX_DIMENSIONS = 8

Tensors = dict[str, NDArray[Any]]


class MalformedTensors(CraftProtocolError):
    """The bytes are not a tensor body of this protocol; the message names the broken rule."""


def encode(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Frame tensors and metadata as one safetensors body.

    Args:
        tensors: arrays of dtype float32, float16 or int16, any shape.
        metadata: strings for the header's `__metadata__`.

    Returns:
        The body; the same arguments always give the same bytes.

    Raises:
        MalformedTensors: a tensor has another dtype.
    """
    specs = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    chunks = [little_endian(tensors[name]).tobytes() for name in sorted(tensors)]
    return b"".join([begin(specs, metadata), *chunks])


def begin(
    specs: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """What stands before the values of tensors of such dtypes and shapes, as in `encode`.

    The values follow in the order of the tensors' names, row-major, little-endian: a sender
    that has not got them all at once can send them as they come.

    Raises:
        MalformedTensors: a dtype that may not cross.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, (dtype, shape) in sorted(specs.items()):
        little = dtype.newbyteorder("<")
        if little not in _NAMES:
            raise MalformedTensors(
                f"tensor {name!r}: dtype {dtype}, allowed: float32, float16, int16"
            )
        start, end = end, end + math.prod(shape) * little.itemsize
        header[name] = {
            "dtype": _NAMES[little],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in the byte order of the format; no copy where they are so already."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def decode(body: bytes) -> tuple[Tensors, dict[str, str]]:
    """Read a tensor body; the arrays are read-only views of `body` (no copy).

    Raises:
        MalformedTensors: any departure from the format at the top of this module.
    """
    header, start = _header(body)
    metadata = _metadata(header.pop("__metadata__", {}))
    data = memoryview(body)[start:]
    spans: list[tuple[int, int, str]] = []
    tensors: Tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        if end > len(data):
            raise MalformedTensors(f"tensor {name!r}: ends at byte {end}, the data has {len(data)}")
        try:
            tensors[name] = np.ndarray(shape, dtype=dtype, buffer=data[begin:end])
        except ValueError as error:
            raise MalformedTensors(f"tensor {name!r}: shape {list(shape)}: {error}") from error
        spans.append((begin, end, name))
    _check_back_to_back(spans, len(data))
    return tensors, metadata


def _header(body: bytes) -> tuple[dict[str, Any], int]:
    if len(body) < _LENGTH_BYTES:
        raise MalformedTensors(f"body has {len(body)} bytes, the header length alone takes 8")
    length = int.from_bytes(body[:_LENGTH_BYTES], "little")
    if length > MAX_TENSOR_HEADER_BYTES:
        raise MalformedTensors(f"header of {length} bytes, allowed: {MAX_TENSOR_HEADER_BYTES}")
    start = _LENGTH_BYTES + length
    if start > len(body):
        raise MalformedTensors(f"header of {length} bytes does not fit a body of {len(body)}")
    commas = body.count(b",", _LENGTH_BYTES, start)
    if commas > MAX_HEADER_COMMAS:
        raise MalformedTensors(f"header with {commas} commas, allowed: {MAX_HEADER_COMMAS}")
    try:
        header = json.loads(body[_LENGTH_BYTES:start].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedTensors(f"header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise MalformedTensors("header is not a JSON object")
    return header, start


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    for name, value in pairs:  # half a surrogate is valid JSON, but no text: UnicodeEncodeError
        name.encode()
        if isinstance(value, str):
            value.encode()
    return found


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise MalformedTensors("__metadata__ must be an object of strings")
    return value


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise MalformedTensors(f"tensor {name!r}: needs exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise MalformedTensors(f"tensor {name!r}: dtype {entry['dtype']!r}, allowed: {[*DTYPES]}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise MalformedTensors(f"tensor {name!r}: shape {shape!r} is not a list of counts")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise MalformedTensors(f"tensor {name!r}: data_offsets {offsets!r} is not [begin, end]")
    expected = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != expected:
        raise MalformedTensors(
            f"tensor {name!r}: shape {shape} takes {expected} bytes, "
            f"data_offsets give {offsets[1] - offsets[0]}"
        )
    return dtype, tuple(shape), offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_back_to_back(spans: list[tuple[int, int, str]], length: int) -> None:
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            kind = "overlaps the one before" if begin < position else "leaves a hole before it"
            raise MalformedTensors(
                f"tensor {name!r} {kind}: begins at {begin}, expected {position}"
            )
        position = end
    if position != length:
        raise MalformedTensors(f"{length - position} trailing bytes after the last tensor")
