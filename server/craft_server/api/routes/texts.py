"""POST /v1/texts/check: do texts fit the model? Free; what it tells is the tokenizer's alone."""

from fastapi import APIRouter, Request

from craft_server.api.bodies import describe, read_json
from craft_server.api.dependencies import ServicesOf, TextsKey
from craft_shared.messages import TextPrompts, TextsReply, TextsRequest

router = APIRouter(tags=["logits"])

_TEXTS_A_TURN = 256
_LETTERS_A_TURN = 2**14
"""Tokenising so many takes as long as some requests that buy nothing."""


@router.post("/v1/texts/check", openapi_extra=describe(TextsRequest))
async def check(request: Request, services: ServicesOf, key: TextsKey) -> TextsReply:
    """Count the tokens of prompts x class names; say which texts would be refused. Free."""
    message = await read_json(request, TextsRequest, key=key)
    texts = services.logits.count_texts(key, message)
    for _ in range(max(texts // _TEXTS_A_TURN, _letters(message) // _LETTERS_A_TURN)):
        await services.pacing.turn(key.owner)
    return await services.logits.check_texts(key, message)


def _letters(message: TextsRequest) -> int:
    """Of all texts together."""
    prompts, names = message.prompts, message.class_names
    if isinstance(prompts, TextPrompts):
        around = [len(template) for template in prompts.templates]
    else:
        around = [len(prompts.context) + len(prompts.suffix)]
    return sum(around) * len(names) + sum(map(len, names)) * len(around)
