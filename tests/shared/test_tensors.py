"""The tensor codec: exact bytes, agreement with the safetensors library, refusal of all else."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from craft_shared import tensors
from craft_shared.tensors import MalformedTensors
from craft_shared.testing import frame

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
ARRAYS = hnp.arrays(
    st.sampled_from([np.dtype(np.float32), np.dtype(np.float16)]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
METADATA = st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def test_golden_bytes():
    body = tensors.encode({"logits": np.array([[1.0, -2.5]], np.float32)}, {"b": "2", "a": "1"})
    header = (
        b'{"__metadata__":{"a":"1","b":"2"},'
        b'"logits":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    )
    padded = header + b" " * (-len(header) % 8)
    assert body == len(padded).to_bytes(8, "little") + padded + bytes.fromhex("0000803f000020c0")


@given(st.dictionaries(NAMES, ARRAYS, max_size=4), METADATA)
def test_decode_inverts_encode(arrays, metadata):
    found, found_metadata = tensors.decode(tensors.encode(arrays, metadata))
    assert same(found, arrays)
    assert found_metadata == metadata


@given(st.dictionaries(NAMES, ARRAYS, max_size=4), METADATA)
def test_the_safetensors_library_reads_what_we_write(arrays, metadata):
    assert same(safetensors.numpy.load(tensors.encode(arrays, metadata)), arrays)


@given(st.dictionaries(NAMES, ARRAYS, max_size=4))
def test_we_read_what_the_safetensors_library_writes(arrays):
    found, _ = tensors.decode(safetensors.numpy.save(arrays))
    assert same(found, arrays)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read_never_crash(body):
    with pytest.raises(MalformedTensors):
        tensors.decode(body)


@given(st.data())
def test_a_flipped_byte_is_refused_or_changes_only_values(data):
    arrays = {"offsets": np.arange(12, dtype=np.float32).reshape(3, 4)}
    body = bytearray(tensors.encode(arrays, {"request": "{}"}))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    try:
        found, _ = tensors.decode(bytes(body))
    except MalformedTensors:
        return
    assert sum(array.nbytes for array in found.values()) == 48


def test_decode_does_not_copy():
    body = tensors.encode({"x": np.zeros(4, np.float32)}, {})
    array = tensors.decode(body)[0]["x"]
    assert array.base is not None
    assert not array.flags.writeable


def test_big_endian_arrays_are_written_little_endian():
    array = np.array([1.0], ">f4")
    assert tensors.decode(tensors.encode({"x": array}, {}))[0]["x"][0] == 1.0


def test_encode_refuses_other_dtypes():
    with pytest.raises(MalformedTensors, match="dtype float64, allowed: float32, float16"):
        tensors.encode({"x": np.zeros(1)}, {})


def test_a_header_may_hold_unicode_names():
    entry = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    body = frame(json.dumps({"größe": entry}, ensure_ascii=False).encode(), bytes(4))
    assert tensors.decode(body)[0]["größe"].shape == ()
