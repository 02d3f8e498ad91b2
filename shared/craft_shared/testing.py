"""Hostile bodies: what a server of this protocol must refuse, and with which code.

For tests of servers and codecs, ours or another's. Each attack is a body of POST /v1/logits with
Content-Type application/x-safetensors; a server that takes one without the named refusal is broken.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from craft_shared import tensors
from craft_shared.errors import Code
from craft_shared.limits import MAX_TENSOR_HEADER_BYTES

Edit = Callable[[dict[str, Any]], object]


class Attack(NamedTuple):
    """A malformed tensor body, the code that must answer it, and a word its message must have."""

    name: str
    body: bytes
    code: Code
    says: str


def valid_request(**fields: Any) -> dict[str, Any]:
    """A well-formed soft request as JSON data; `fields` replace its own."""
    return {
        "model": "stub::0",
        "image_set": "set_" + "0" * 32,
        "class_names": ["cat", "dog"],
        "prompts": {"kind": "soft", "context": "a photo of a", "suffix": "."},
        **fields,
    }


def frame(header: object, data: bytes = b"") -> bytes:
    """A safetensors body with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def attacks() -> Iterator[Attack]:
    """Every attack, each breaking one rule."""
    yield from _broken_frames()
    yield from _broken_entries()
    yield from _broken_offsets()
    yield from _broken_requests()


def _broken_frames() -> Iterator[Attack]:
    good = _soft_body()
    huge = (2**63).to_bytes(8, "little")
    long = (MAX_TENSOR_HEADER_BYTES + 1).to_bytes(8, "little")
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for name, body, says in [
        ("empty body", b"", "0 bytes"),
        ("shorter than the length", b"\x01\x02", "2 bytes"),
        ("header length 2**63", huge + b"{}", "allowed"),
        ("header over the limit", long + b" " * 10, "allowed"),
        ("header longer than the body", (500).to_bytes(8, "little") + b"{}", "does not fit"),
        ("header not JSON", frame(b"{nope"), "not JSON"),
        ("header not UTF-8", frame(b'{"\xff": 1}'), "not JSON"),
        ("header nested too deep", frame(deep), "not JSON"),
        ("header a list", frame([1, 2]), "not a JSON object"),
        ("half a surrogate", frame(b'{"__metadata__": {"request": "\\ud800"}}'), "not JSON"),
        ("half a surrogate as a name", frame(b'{"\\ud800": 1}'), "not JSON"),
        ("a name twice", frame(b'{"a": 1, "a": 2}'), "twice"),
        ("metadata not strings", frame({"__metadata__": {"request": 3}}), "__metadata__"),
        ("metadata a list", frame({"__metadata__": []}), "__metadata__"),
        ("trailing bytes", good + b"\x00", "trailing"),
        ("data cut short", good[:-1], "ends at byte"),
        ("pickle", b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00", "allowed"),
    ]:
        yield Attack(name, body, Code.INVALID_REQUEST, says)


def _broken_entries() -> Iterator[Attack]:
    edits: list[tuple[str, Edit, str]] = [
        ("no dtype", lambda entry: entry.pop("dtype"), "exactly"),
        ("an extra field", lambda entry: entry.update(x=1), "exactly"),
        ("dtype int64", lambda entry: entry.update(dtype="I64"), "dtype"),
        ("dtype a list", lambda entry: entry.update(dtype=[]), "dtype"),
        ("negative size", lambda entry: entry.update(shape=[-1, 4, 16]), "counts"),
        ("size a float", lambda entry: entry.update(shape=[1.0, 4, 16]), "counts"),
        ("size true", lambda entry: entry.update(shape=[True, 4, 16]), "counts"),
        ("40 axes", lambda entry: entry.update(shape=[1] * 39 + [64]), "counts"),
        ("shape larger than data", lambda entry: entry.update(shape=[2, 4, 16]), "takes"),
        ("shape 2**200", lambda entry: entry.update(shape=[2**100, 2**100]), "takes"),
        (
            "shape with a zero and more than memory",
            lambda entry: entry.update(shape=[0, 2**62, 2**62], data_offsets=[0, 0]),
            "shape",
        ),
        ("offsets reversed", lambda entry: entry.update(data_offsets=[256, 0]), "data_offsets"),
        ("offsets of three", lambda entry: entry.update(data_offsets=[0, 1, 2]), "data_offsets"),
        ("offsets past the end", lambda entry: entry.update(data_offsets=[256, 512]), "ends"),
        ("a hole", lambda entry: entry.update(data_offsets=[0, 252], shape=[63]), "trailing"),
    ]
    for name, edit, says in edits:
        yield Attack(name, _edited(edit), Code.INVALID_REQUEST, says)
    both = _entry() | {"data_offsets": [128, 384]}
    header = _header() | {"offsets": _entry(), "other": both}
    yield Attack("overlap", frame(header, bytes(384)), Code.INVALID_REQUEST, "overlaps")
    after = _entry() | {"data_offsets": [260, 516]}
    header = _header() | {"offsets": _entry(), "other": after}
    yield Attack("hole between", frame(header, bytes(516)), Code.INVALID_REQUEST, "hole")


def _broken_offsets() -> Iterator[Attack]:
    for name, value in [("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf)]:
        offsets = np.zeros((2, 4, 16), np.float32)
        offsets[1, 2, 3] = value
        yield Attack(f"offset {name}", _soft_body(offsets), Code.NON_FINITE_OFFSETS, "[1, 2, 3]")
    for name, array, says in [
        ("float16 offsets", np.zeros((1, 4, 16), np.float16), "float32"),
        ("two axes", np.zeros((4, 16), np.float32), "shape"),
        ("no prompts", np.zeros((0, 4, 16), np.float32), "shape"),
    ]:
        yield Attack(name, _soft_body(array), Code.INVALID_REQUEST, says)


def _broken_requests() -> Iterator[Attack]:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("unknown field", {"temperature": 1}, "temperature"),
        ("no classes", {"class_names": []}, "class_names"),
        ("empty class name", {"class_names": ["cat", ""]}, "class_names[1]"),
        ("endless class name", {"class_names": ["x" * 10_000]}, "class_names[0]"),
        ("wrong set id", {"image_set": "../../etc/passwd"}, "image_set"),
        ("wrong kind", {"prompts": {"kind": "gradient"}}, "prompts"),
        ("wrong dtype", {"dtype": "int8"}, "dtype"),
        ("a tag with a newline", {"tag": "a\nb"}, "tag"),
        ("text with a tensor", {"prompts": {"kind": "text", "templates": ["a {}"]}}, "tensors"),
        ("template without a gap", {"prompts": {"kind": "text", "templates": ["cat"]}}, "{}"),
        ("no templates", {"prompts": {"kind": "text", "templates": []}}, "templates"),
        (
            "offsets twice",
            {"prompts": valid_request()["prompts"] | {"offsets": [[[0.0]]]}},
            "prompts.offsets",
        ),
    ]
    for name, fields, says in cases:
        body = _soft_body(request=valid_request(**fields))
        yield Attack(name, body, Code.INVALID_REQUEST, says)
    missing = tensors.encode({}, {"request": json.dumps(valid_request())})
    yield Attack("soft without a tensor", missing, Code.INVALID_REQUEST, "offsets")
    nothing = tensors.encode({"offsets": np.zeros((1, 4, 16), np.float32)}, {})
    yield Attack("no request", nothing, Code.INVALID_REQUEST, "body")


def _soft_body(offsets: Any = None, request: Any = None) -> bytes:
    array = np.zeros((1, 4, 16), np.float32) if offsets is None else offsets
    return tensors.encode({"offsets": array}, {"request": json.dumps(request or valid_request())})


def _header() -> dict[str, Any]:
    return {"__metadata__": {"request": json.dumps(valid_request())}}


def _entry() -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1, 4, 16], "data_offsets": [0, 256]}


def _edited(edit: Edit) -> bytes:
    entry = _entry()
    edit(entry)
    return frame(_header() | {"offsets": entry}, bytes(256))
