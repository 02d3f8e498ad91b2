"""The tensor bodies of POST /v1/logits: messages in the header, numbers behind it.

    request   __metadata__ {"request": LogitsRequest as JSON}, tensor "offsets" (P, n_ctx, width)
    reply     __metadata__ {"reply": LogitsReply as JSON},     tensor "logits"  (P, N, K)
              of dtype int16: beside it tensors "offset" and "scale", float32 (P, N)

Text prompts need no tensor; their request has metadata alone.
"""

from reprlib import Repr
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from craft_shared import int16_rows, tensors
from craft_shared.errors import Code, Refusal
from craft_shared.int16_rows import Int16Rows
from craft_shared.limits import (
    MAX_COLONS,
    MAX_JSON_BRACKETS,
    MAX_JSON_COMMAS,
    MAX_JSON_QUOTES,
)
from craft_shared.messages import LogitsReply, LogitsRequest, ReplyDtype, SoftPrompts
from craft_shared.tensors import MalformedTensors

FloatArray = NDArray[np.float32]
M = TypeVar("M", bound=BaseModel)

INT16_ROW_BYTES = 8
"""What a row of int16 takes beside its logits: offset and scale, float32 each."""

_MARKS = {
    b":": (MAX_COLONS, "colons", "there are more fields than any message has"),
    b"[": (MAX_JSON_BRACKETS, "opening brackets", "there are more lists than any message has"),
    b'"': (MAX_JSON_QUOTES, "quotes", "there are more texts than any message has"),
    b",": (MAX_JSON_COMMAS, "commas", "send so many numbers as a tensor body"),
}
"""What stands in JSON where something begins that takes time: most of it, its name, and why."""

_SHOWN = Repr()
"""Writes the beginning of a value, whatever its length."""
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 100
_SHOWN.maxlist = 30


def encode_request(request: LogitsRequest, offsets: FloatArray | None = None) -> bytes:
    """Body of a request; `offsets` float32 (P, n_ctx, width) exactly where the prompts are soft.

    Without a run the bytes are those of the time before there were runs.
    """
    body = {} if offsets is None else {"offsets": np.asarray(offsets, np.float32)}
    absent = set() if request.run else {"run"}
    message = request.model_dump_json(exclude_none=True, exclude=absent)
    return tensors.encode(body, {"request": message})


def decode_request(body: bytes) -> tuple[LogitsRequest, FloatArray | None]:
    """Read a tensor body; the offsets' shape is checked for three axes, their values are finite.

    Raises:
        Refusal: `invalid_request` or `non_finite_offsets`.
    """
    try:
        arrays, metadata = tensors.decode(body)
    except MalformedTensors as error:
        raise Refusal(Code.INVALID_REQUEST, f"tensor body: {error}", param="body") from error
    request = parse(LogitsRequest, metadata.get("request", ""))
    if isinstance(request.prompts, SoftPrompts) and request.prompts.offsets is not None:
        raise _offsets("a tensor body carries the offsets as a tensor, not in prompts.offsets")
    wanted = {"offsets"} if isinstance(request.prompts, SoftPrompts) else set()
    if set(arrays) != wanted:
        raise _offsets(
            f"{request.prompts.kind} prompts need tensors {sorted(wanted)}, got {sorted(arrays)}"
        )
    return request, check_offsets(arrays["offsets"]) if wanted else None


def offsets_from_json(request: LogitsRequest) -> FloatArray | None:
    """The offsets of a JSON request as float32 (P, n_ctx, width); None for text prompts.

    Raises:
        Refusal: they are missing, ragged, empty or not finite.
    """
    if not isinstance(request.prompts, SoftPrompts):
        return None
    if request.prompts.offsets is None:
        raise _offsets("soft prompts need prompts.offsets, numbers of shape (P, n_ctx, width)")
    try:
        with np.errstate(over="ignore"):
            array = np.array(request.prompts.offsets, np.float32)
    except ValueError as error:
        raise _offsets("the lists have different lengths; need shape (P, n_ctx, width)") from error
    return check_offsets(array)


def check_offsets(array: NDArray[np.generic]) -> FloatArray:
    """Refuse offsets that are not finite float32 of three non-empty axes."""
    if array.dtype != np.float32:
        raise _offsets(f"dtype {array.dtype}, allowed: float32")
    if array.ndim != 3 or 0 in array.shape:
        raise _offsets(f"shape {list(array.shape)}, needed: (P, n_ctx, width), none of them 0")
    finite = np.isfinite(array)
    if not finite.all():
        where = [int(axis) for axis in np.argwhere(~finite)[0]]
        detail = f"offsets{where} is {array[tuple(where)]}; every offset must be a finite number"
        raise Refusal(Code.NON_FINITE_OFFSETS, detail, param="prompts.offsets")
    return array.astype(np.float32, copy=False)


def encode_reply(reply: LogitsReply, logits: NDArray[np.floating] | Int16Rows) -> bytes:
    """Body of a reply; `logits` float32, float16 or int16 rows of shape (P, N, K)."""
    body: dict[str, NDArray[Any]] = (
        {"logits": logits}
        if isinstance(logits, np.ndarray)
        else {
            "logits": logits.values,
            "offset": logits.offset,
            "scale": logits.scale,
        }
    )
    return tensors.encode(body, {"reply": reply.model_dump_json(exclude_none=True)})


def begin_reply(reply: LogitsReply, dtype: ReplyDtype, shape: tuple[int, int, int]) -> bytes:
    """What stands before the logits (P, N, K) in a reply's body, for logits sent as they come.

    Behind int16 logits come all offsets, then all scales.
    """
    metadata = {"reply": reply.model_dump_json(exclude_none=True)}
    specs: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {"logits": (np.dtype(dtype), shape)}
    if dtype == "int16":
        specs |= {name: (np.dtype(np.float32), shape[:2]) for name in ("offset", "scale")}
    return tensors.begin(specs, metadata)


def logits_bytes(dtype: ReplyDtype, *, rows: int, classes: int) -> int:
    """Bytes of a reply's tensors for so many rows (prompts x images) of so many classes."""
    row = INT16_ROW_BYTES if dtype == "int16" else 0
    return rows * (classes * np.dtype(dtype).itemsize + row)


def decode_reply(body: bytes) -> tuple[LogitsReply, NDArray[np.floating]]:
    """Read a reply; int16 rows are float32 from here on.

    Raises:
        MalformedTensors: the body is not a reply of this protocol, or is shorter than it says.
    """
    arrays, metadata = tensors.decode(body)
    logits = _reply_logits(arrays)
    try:
        reply = LogitsReply.model_validate_json(metadata.get("reply", ""))
    except ValidationError as error:
        raise MalformedTensors(f"reply metadata: {error}") from error
    return reply, logits


def _reply_logits(arrays: tensors.Tensors) -> NDArray[np.floating]:
    logits = arrays.get("logits")
    whole = logits is not None and logits.dtype == np.int16
    wanted = {"logits", "offset", "scale"} if whole else {"logits"}
    if logits is None or set(arrays) != wanted or logits.ndim != 3:
        raise MalformedTensors(
            "a reply has one tensor, logits (P, N, K), and beside int16 logits offset and scale "
            f"(P, N); got {sorted(arrays)}"
        )
    if not whole:
        return logits
    try:
        return int16_rows.decode(Int16Rows(logits, arrays["offset"], arrays["scale"]))
    except ValueError as error:
        raise MalformedTensors(f"int16 rows: {error}") from error


def parse(model: type[M], text: str | bytes) -> M:
    """Parse JSON into a message of the protocol.

    Raises:
        Refusal: `invalid_request` that names the first field at fault, its value and the rule.
    """
    _check_marks(text.encode() if isinstance(text, str) else text)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise refuse_invalid(error) from error


def _check_marks(text: bytes) -> None:
    """Refuse JSON that would take long to read, which nothing can interrupt.

    Counting all marks of 8 MB takes 14 ms; making something of them takes up to 2.7 s.
    """
    for mark, (most, name, meaning) in _MARKS.items():
        count = text.count(mark)
        if count > most:
            detail = f"{count} {name}, at most {most}: {meaning}"
            raise Refusal(Code.INVALID_REQUEST, detail, param="body")


def refuse_invalid(error: ValidationError) -> Refusal:
    """The refusal for a message that broke its model: first fault, and how many there are."""
    faults = error.errors(include_url=False)
    first = faults[0]
    path = _path(first["loc"])
    given = first["input"]
    value = repr(given[:100]) if isinstance(given, str | bytes) else _SHOWN.repr(given)
    shown = value if len(value) <= 80 else value[:77] + "..."
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    detail = f"{path or 'body'}: {first['msg']}; got {shown}{more}"
    return Refusal(Code.INVALID_REQUEST, detail, param=path or "body")


def _path(location: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _offsets(detail: str) -> Refusal:
    return Refusal(Code.INVALID_REQUEST, detail, param="prompts.offsets")
