"""Logits as int16 rows: exact bytes, bounded errors, exact exceptions, refusal of all else."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from craft_shared import int16_rows, tensors, wire
from craft_shared.int16_rows import HIDDEN, STEPS, Int16Rows
from craft_shared.messages import Budget, Budgets, Counters, LogitsReply
from craft_shared.tensors import MalformedTensors

LARGEST = float(np.finfo(np.float32).max)
LEAST = float(np.finfo(np.float32).smallest_subnormal)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
USUAL = st.floats(-40, 40, width=32)
REPLY = LogitsReply(
    model="m",
    digest="d",
    image_set="set_" + "0" * 32,
    cost=Counters(queries=1, calls=1, logit_vectors=2, texts=3, logits=6),
    budgets=Budgets(queries=Budget(limit=1, used=1, held=0, remaining=0)),
    replayed=False,
)


def there_and_back(logits):
    return int16_rows.decode(int16_rows.encode(logits))


def allowed_error(logits):
    """Half a step of each row and 2^-22 of its largest magnitude, (..., 1)."""
    wide = logits.astype(np.float64)
    half = np.ptp(wide, axis=-1, keepdims=True) / STEPS / 2
    return half + np.abs(wide).max(axis=-1, keepdims=True) * 2.0**-22 + 2 * LEAST


@given(hnp.arrays(np.float32, SHAPES, elements=st.one_of(FINITE, USUAL)))
def test_a_logit_is_off_by_half_a_step_at_most(logits):
    found = there_and_back(logits)
    assert found.dtype == np.float32
    assert (np.abs(found.astype(np.float64) - logits) <= allowed_error(logits)).all()


@given(hnp.arrays(np.float32, SHAPES, elements=USUAL))
def test_order_is_kept_but_for_ties(logits):
    order = np.argsort(logits, axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(there_and_back(logits), order, axis=-1), axis=-1) >= 0).all()


@given(hnp.arrays(np.float32, SHAPES, elements=USUAL), st.data())
def test_what_is_hidden_stays_hidden_and_moves_nothing_else(logits, data):
    hidden = data.draw(hnp.arrays(np.bool_, logits.shape))
    found = there_and_back(np.where(hidden, np.float32(-np.inf), logits))
    assert (np.isneginf(found) == hidden).all()
    error = np.abs(found.astype(np.float64) - logits)
    assert (error <= allowed_error(logits))[~hidden].all()


@given(FINITE, st.integers(1, 9))
def test_a_row_of_one_number_is_exact(number, classes):
    logits = np.full((2, classes), number, np.float32)
    assert there_and_back(logits).tolist() == logits.tolist()


@pytest.mark.parametrize(
    "row",
    [
        [0, -np.inf, -np.inf],
        [-np.inf, -np.inf],
        [-np.inf],
        [-1.25, -np.inf, -1.25],
        [LARGEST, LARGEST],
        [-LARGEST, LARGEST],
        [1.0, np.nextafter(np.float32(1), np.float32(2))],
        [0.0, 1e-45],
    ],
    ids=str,
)
def test_labels_and_ends_are_exact(row):
    logits = np.array([row], np.float32)
    assert there_and_back(logits).tolist() == logits.tolist()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@given(hnp.arrays(np.float32, SHAPES, elements=FINITE), st.data())
def test_what_is_no_logit_is_refused(wrong, logits, data):
    logits.flat[data.draw(st.integers(0, logits.size - 1))] = wrong
    with pytest.raises(ValueError, match=r"NaN or \+inf"):
        int16_rows.encode(logits)


# --- on the wire --------------------------------------------------------------------------------


GOLDEN = np.array([[[16.0, 24.0, 32.0], [-np.inf, 0.0, -np.inf]]], np.float32)
GOLDEN_HEADER = (
    b'{"__metadata__":{"reply":%s},'
    b'"logits":{"dtype":"I16","shape":[1,2,3],"data_offsets":[0,12]},'
    b'"offset":{"dtype":"F32","shape":[1,2],"data_offsets":[12,20]},'
    b'"scale":{"dtype":"F32","shape":[1,2],"data_offsets":[20,28]}}'
)
GOLDEN_DATA = bytes.fromhex(
    "0180 0000 ff7f  0080 0000 0080"  # -32767, 0, 32767; hidden, 0, hidden
    "0000c041 00000000"  # 24, 0
    "01018039 00000000"  # 16 / 65,534 rounded up, 0
)


def test_golden_bytes():
    body = wire.encode_reply(REPLY, int16_rows.encode(GOLDEN))
    text = json.dumps(REPLY.model_dump_json(exclude_none=True)).encode()
    header = GOLDEN_HEADER % text
    padded = header + b" " * (-len(header) % 8)
    assert body == len(padded).to_bytes(8, "little") + padded + GOLDEN_DATA
    found, logits = wire.decode_reply(body)
    assert found == REPLY
    hidden = -np.inf
    assert logits.tolist() == [[[16 - 2**-20, 24, 32], [hidden, 0, hidden]]]


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=USUAL))
def test_a_reply_sent_as_it_comes_is_the_whole_one_and_as_long_as_foretold(logits):
    rows = int16_rows.encode(logits)
    whole = wire.encode_reply(REPLY, rows)
    begin = wire.begin_reply(REPLY, "int16", logits.shape)
    assert begin + b"".join(part.tobytes() for part in rows) == whole
    prompts, images, classes = logits.shape
    size = wire.logits_bytes("int16", rows=prompts * images, classes=classes)
    assert len(whole) == len(begin) + size
    theirs = safetensors.numpy.load(whole)
    assert {name: array.tobytes() for name, array in theirs.items()} == {
        "logits": rows.values.tobytes(),
        "offset": rows.offset.tobytes(),
        "scale": rows.scale.tobytes(),
    }


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4 * 30), ("float16", 2 * 30), ("int16", 2 * 30 + 3 * 8)]
)
def test_the_bytes_of_a_reply_are_known_from_its_shape(dtype, size):
    assert wire.logits_bytes(dtype, rows=3, classes=10) == size


def a_body(**changes):
    good = {
        "logits": np.zeros((1, 2, 3), np.int16),
        "offset": np.zeros((1, 2), np.float32),
        "scale": np.ones((1, 2), np.float32),
    }
    arrays = {name: array for name, array in (good | changes).items() if array is not None}
    return tensors.encode(arrays, {"reply": REPLY.model_dump_json()})


def a_row(number):
    return np.array([[1.0, number]], np.float32)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale": a_row(np.nan)}, "a scale is negative or no finite number"),
        ({"scale": a_row(np.inf)}, "a scale is negative or no finite number"),
        ({"scale": a_row(-1)}, "a scale is negative or no finite number"),
        ({"scale": a_row(-1e-45)}, "a scale is negative or no finite number"),
        ({"offset": a_row(np.nan)}, "an offset is no finite number"),
        ({"offset": a_row(np.inf)}, "an offset is no finite number"),
        ({"offset": a_row(-np.inf)}, "an offset is no finite number"),
        ({"scale": np.ones((1, 3), np.float32)}, "a number for each row"),
        ({"offset": np.ones((2, 1), np.float32)}, "a number for each row"),
        ({"scale": np.ones((1, 2, 3), np.float32)}, "a number for each row"),
        ({"scale": np.float32(1)}, "a number for each row"),
        ({"scale": np.ones((1, 2), np.float16)}, "needed: int16, float32, float32"),
        ({"offset": np.ones((1, 2), np.int16)}, "needed: int16, float32, float32"),
        ({"scale": None}, r"beside int16 logits offset and scale \(P, N\); got"),
        ({"offset": None, "scale": None}, "beside int16 logits offset and scale"),
        ({"logits": None}, "a reply has one tensor, logits"),
        ({"logits": np.zeros((1, 2, 3), np.float32)}, "a reply has one tensor, logits"),
        ({"logits": np.zeros((2, 3), np.int16)}, "a reply has one tensor, logits"),
        ({"more": np.zeros(1, np.float32)}, "a reply has one tensor, logits"),
    ],
)
def test_what_are_no_int16_rows_is_malformed(changes, says):
    with pytest.raises(MalformedTensors, match=says):
        wire.decode_reply(a_body(**changes))


def test_huge_scales_give_finite_numbers():
    values = np.array([[32767, -32767, 0, HIDDEN]], np.int16)
    huge = np.array([LARGEST], np.float32)
    found = int16_rows.decode(Int16Rows(values, huge, huge))
    assert np.isfinite(found[0, :3]).all()
    assert np.isneginf(found[0, 3])


@pytest.mark.parametrize("shape", [(1, 70_000, 1), (2, 5, 20_000), (3, 700, 100), (4, 3, 70_000)])
def test_many_rows_are_what_each_is_alone(shape):
    logits = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    together = int16_rows.encode(logits)
    for place in [(0, 0), (shape[0] - 1, shape[1] - 1), (0, shape[1] // 2)]:
        alone = int16_rows.encode(logits[place])
        assert np.array_equal(together.values[place], alone.values)
        assert together.offset[place] == alone.offset
        assert together.scale[place] == alone.scale
