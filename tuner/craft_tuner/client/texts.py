"""Whether texts fit the model, exactly, before anything is uploaded or charged.

Owns the requests to POST /v1/texts/check, and what is said of texts that are refused. What can be
known without a server is in `craft_tuner.data.class_names`.
"""

from collections.abc import Iterable, Iterator

from craft_shared.errors import Code
from craft_shared.limits import MAX_TEXTS_PER_CHECK
from craft_shared.messages import ModelCard, SoftPrompts, TextPrompts, TextsReply, TextsRequest
from craft_tuner.blackbox import Wording
from craft_tuner.client.responses import message, shortened
from craft_tuner.client.transport import Call, Transport
from craft_tuner.data.class_names import short, too_long
from craft_tuner.errors import DataError, NoSuchCall, UsageError

TEMPLATES_AT_ONCE = 256
"""Templates of one request: at most 2 MB of JSON."""


class TextCheck:
    """Asks one server about one model's texts, once about each wording."""

    def __init__(self, transport: Transport, card: ModelCard) -> None:
        self._transport = transport
        self._card = card
        self._answered: dict[Wording, UsageError | None] = {}
        self._asks = True

    def check(self, wordings: Iterable[Wording]) -> None:
        """Make sure that no request for logits in these words is refused for one of its texts.

        Free. A server that has no such call is asked once, and nothing is known.

        Raises:
            DataError: a class name is too long, or not to be read.
            UsageError: the context is, or its tokens are not as many as its offsets.
            CraftTunerError: the key may not ask so.
        """
        for wording in wordings:
            if self._asks and wording not in self._answered:
                self._answered[wording] = self._ask(wording)
            refusal = self._answered.get(wording)
            if refusal is not None:
                raise refusal

    def _ask(self, wording: Wording) -> UsageError | None:
        """Why the wording is refused; None if it is not, or nobody knows."""
        try:
            for request in requests(wording, self._card):
                call = Call(
                    "POST",
                    "/v1/texts/check",
                    headers={"Content-Type": "application/json"},
                    content=request.model_dump_json(exclude_none=True).encode(),
                )
                judge(self._transport.send(call, message(TextsReply)), wording)
        except NoSuchCall:
            self._asks = False
        except UsageError as error:
            return error
        return None


def requests(wording: Wording, card: ModelCard) -> Iterator[TextsRequest]:
    """A wording in as few requests as the server takes."""
    texts, names = wording.texts, list(wording.texts.class_names)
    if not wording.templates:
        soft = SoftPrompts(context=texts.context, suffix=texts.suffix)
        yield TextsRequest(model=card.id, class_names=names, prompts=soft)
        return
    most = min(MAX_TEXTS_PER_CHECK, card.limits.texts) // len(names)
    step = max(1, min(most, TEMPLATES_AT_ONCE, card.limits.prompts))
    for start in range(0, len(wording.templates), step):
        some = TextPrompts(templates=list(wording.templates[start : start + step]))
        yield TextsRequest(model=card.id, class_names=names, prompts=some)


def judge(reply: TextsReply, wording: Wording) -> None:
    """Refuse a wording of which the server refuses a text.

    Raises:
        DataError: names the first class.
        UsageError: the context has another number of tokens than its offsets.
    """
    names = wording.texts.class_names
    known = [each for each in reply.refused if each.class_name < len(names)]
    if known:
        first, said = known[0], shortened(known[0].detail)
        others = len({each.class_name for each in known}) - 1
        name = names[first.class_name]
        if first.code == Code.TOO_MANY_TOKENS:
            raise DataError(too_long(name, said, others=others))
        raise DataError(f"class name {short(name)} cannot be asked about: {said}")
    found, needed = reply.context, wording.context_tokens
    if not wording.templates and found is not None and found != needed:
        raise UsageError(
            f"context {short(wording.texts.context)} has {found} tokens and offsets for {needed}; "
            f"set context_tokens to {found} or choose another context"
        )
