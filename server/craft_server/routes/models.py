"""Model cards: all that is said of a model."""

from fastapi import APIRouter

from craft_server.routes.access import AnyKey, PartsOf
from craft_shared.errors import Code, Refusal
from craft_shared.messages import ModelCard, ModelList

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(parts: PartsOf, _key: AnyKey) -> ModelList:
    """List the models that are served here."""
    return ModelList(models=[parts.service.card])


@router.get("/v1/models/{model_id}")
async def get_model(model_id: str, parts: PartsOf, _key: AnyKey) -> ModelCard:
    """One model's card."""
    card = parts.service.card
    if model_id != card.id:
        detail = f"model {model_id!r} is not served here; served: {card.id!r}"
        raise Refusal(Code.UNKNOWN_MODEL, detail, param="model_id")
    return card
