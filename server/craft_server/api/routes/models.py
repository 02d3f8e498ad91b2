"""Model cards: all that is said of a model."""

from fastapi import APIRouter

from craft_server.accounts.policy import as_seen, may_use
from craft_server.api.dependencies import AnyKey, ServicesOf
from craft_shared.errors import Code, Refusal
from craft_shared.messages import ModelCard, ModelList

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(services: ServicesOf, key: AnyKey) -> ModelList:
    """List the models that are served here and that this key may use."""
    card = services.logits.card
    return ModelList(models=[as_seen(card, key.policy)] if may_use(card, key.policy) else [])


@router.get("/v1/models/{model_id}")
async def get_model(model_id: str, services: ServicesOf, key: AnyKey) -> ModelCard:
    """One model's card: what this key may ask it."""
    card = services.logits.card
    if model_id != card.id or not may_use(card, key.policy):
        detail = f"model {model_id!r} is not served here, or not to this key"
        raise Refusal(Code.UNKNOWN_MODEL, detail, param="model_id")
    return as_seen(card, key.policy)
