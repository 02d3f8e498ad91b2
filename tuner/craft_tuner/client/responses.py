"""What a server's reply is: a message of the protocol, a problem document, or neither."""

import math
from collections.abc import Callable
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from craft_shared import PROTOCOL_VERSION
from craft_shared.errors import PROBLEM_MEDIA_TYPE, Problem
from craft_tuner.client.failures import seconds_until
from craft_tuner.errors import NoSuchCall, ServerUnreachable

M = TypeVar("M", bound=BaseModel)

SAID_CHARS = 2000
"""Of what a server says that is shown to people; longer words are cut."""

_NO_SUCH_CALL = (404, 405)


class Garbled(Exception):
    """A reply of the right kind that cannot be read to its end; it is asked for again."""


def message(model: type[M]) -> Callable[[httpx.Response], M]:
    """A reader of JSON replies for `Transport.send`."""

    def read(response: httpx.Response) -> M:
        expect(response, "application/json")
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                raise Garbled("not JSON to its end") from error
            raise not_of_this_protocol(response) from error

    return read


def expect(response: httpx.Response, media_type: str) -> None:
    """Refuse a successful reply of another media type.

    Raises:
        ServerUnreachable: what answers is not a craft-server of this protocol.
    """
    if _media_type(response) != media_type:
        raise not_of_this_protocol(response)


def not_of_this_protocol(response: httpx.Response) -> ServerUnreachable:
    """The error for an answer that no server of this protocol would give."""
    request = response.request
    kind = _media_type(response)[:100] or "no media type"
    server = request.url.copy_with(path="/", query=None)
    error = NoSuchCall if response.status_code in _NO_SUCH_CALL else ServerUnreachable
    return error(
        f"{server} answers {response.status_code} with {kind} to {request.method} "
        f"{request.url.path}, which is not protocol {PROTOCOL_VERSION}; check that --server is the "
        "address of a craft-server, without a path, and that both programs have the same version"
    )


def problem_of(response: httpx.Response) -> Problem | None:
    """The problem document of an error reply; None if it has none."""
    if _media_type(response) != PROBLEM_MEDIA_TYPE:
        return None
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return None
    said = {name: text for name, text in problem if isinstance(text, str)}
    return problem.model_copy(update={name: shortened(text) for name, text in said.items()})


def shortened(text: str) -> str:
    """A server's words, cut where they are too many to be shown."""
    return text if len(text) <= SAID_CHARS else f"{text[:SAID_CHARS]}..."


def _media_type(response: httpx.Response) -> str:
    header: str = response.headers.get("content-type", "")
    return header.split(";", maxsplit=1)[0].strip().lower()


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that the reply asks to wait, in seconds or until a date; None if it does not say."""
    asked = response.headers.get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        return seconds_until(asked, response)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
