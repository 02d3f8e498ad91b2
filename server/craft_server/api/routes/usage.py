"""What a key has left, what it has spent, and the ledger in pages."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from craft_server.accounts.shares import Caller
from craft_server.api.dependencies import AnyKey, ServicesOf, UsageKey, hold
from craft_server.api.ledger_pages import CSV, NDJSON, form_of, read
from craft_server.metering.ledger import Bucket, Label, LedgerFilter
from craft_shared.messages import KeyInfo, Tag, UsageEvents, UsageReply

router = APIRouter(tags=["usage"])


@router.get("/v1/key")
async def key_info(services: ServicesOf, key: AnyKey) -> KeyInfo:
    """What this key may do and what it has left."""
    budgets = await services.reads.run(Caller.of(key), lambda: services.meter.budgets(key.id))
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
    return await services.reads.run(
        Caller.of(key), lambda: services.meter.usage(key.id, where, bucket=bucket, by=by)
    )


@router.get(
    "/v1/usage/events",
    response_model=UsageEvents,
    responses={200: {"content": {CSV: {}, NDJSON: {}}}},
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
    form, caller = form_of(request.headers.get("accept", "")), Caller.of(key)

    def slice_of(after: int, limit: int) -> UsageEvents:
        return services.meter.events(key.id, where, after=after, limit=limit)

    page = await services.reads.run(caller, lambda: read(slice_of, form, after=after, limit=limit))
    hold(request, services.replies.lease(caller, len(page.body)))
    headers = {}
    if page.next is not None:
        following = request.url.include_query_params(after=page.next).query
        headers["Link"] = f'<?{following}>; rel="next"'
    return Response(page.body, media_type=form, headers=headers)
