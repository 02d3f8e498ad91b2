"""What a key has left, what it has spent, and the ledger in pages."""

import asyncio
import csv
import io
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from craft_server.api.dependencies import AnyKey, ServicesOf, UsageKey
from craft_server.metering.ledger import Bucket, Label, LedgerFilter
from craft_shared.messages import KeyInfo, Tag, UsageEvent, UsageEvents, UsageReply

router = APIRouter(tags=["usage"])

_CSV = "text/csv"
_NDJSON = "application/x-ndjson"


@router.get("/v1/key")
async def key_info(services: ServicesOf, key: AnyKey) -> KeyInfo:
    """What this key may do and what it has left."""
    budgets = await asyncio.to_thread(services.meter.budgets, key.id)
    return KeyInfo(
        id=key.id,
        owner=key.owner,
        scopes=sorted(key.scopes),
        budgets=budgets,
        policy=key.policy,
        created_at=key.created_at,
        expires_at=key.expires_at,
    )


async def _filter(
    since: datetime | None = None,
    until: datetime | None = None,
    tag: Tag | None = None,
    run: Tag | None = None,
) -> LedgerFilter:
    return LedgerFilter(since=since, until=until, tag=tag, run=run)


FilterDep = Annotated[LedgerFilter, Depends(_filter)]


@router.get("/v1/usage")
async def usage(
    services: ServicesOf,
    key: UsageKey,
    where: FilterDep,
    bucket: Bucket = "total",
    by: Label | None = None,
) -> UsageReply:
    """Add up the ledger of this key, by time (UTC), by tag or by run."""
    return await asyncio.to_thread(services.meter.usage, key.id, where, bucket=bucket, by=by)


@router.get(
    "/v1/usage/events",
    response_model=UsageEvents,
    responses={200: {"content": {_CSV: {}, _NDJSON: {}}}},
)
async def events(
    request: Request,
    services: ServicesOf,
    key: UsageKey,
    where: FilterDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Page through the ledger of this key; Accept chooses JSON, CSV or NDJSON."""
    page = await asyncio.to_thread(services.meter.events, key.id, where, after=after, limit=limit)
    text, media_type = _render(page, request.headers.get("accept", ""))
    headers = {}
    if page.next is not None:
        following = request.url.include_query_params(after=page.next).query
        headers["Link"] = f'<?{following}>; rel="next"'
    return Response(text, media_type=media_type, headers=headers)


def _render(page: UsageEvents, accept: str) -> tuple[str, str]:
    if _CSV in accept:
        return _as_csv(page), _CSV
    if _NDJSON in accept:
        return "".join(event.model_dump_json() + "\n" for event in page.events), _NDJSON
    return page.model_dump_json(), "application/json"


def _as_csv(page: UsageEvents) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(UsageEvent.model_fields))
    writer.writeheader()
    writer.writerows(event.model_dump(mode="json") for event in page.events)
    return buffer.getvalue()
