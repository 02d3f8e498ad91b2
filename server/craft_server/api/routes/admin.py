"""Administration over HTTP: keys, the audit log, and whether ledger and counters agree."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from craft_server.admin import Administration
from craft_server.api.bodies import describe, read_json
from craft_server.api.dependencies import AdminKey, ServicesOf
from craft_server.concurrency import Workers
from craft_shared.admin import (
    Acts,
    Audit,
    KeyChange,
    KeyId,
    KeyRecord,
    KeyRecords,
    KeyRequest,
    KeyRotation,
    MintedKey,
    Owner,
)

router = APIRouter(prefix="/v1/admin", tags=["admin"])

After = Annotated[int, Query(ge=0, lt=2**63, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=10_000)]


async def _administration(services: ServicesOf, key: AdminKey) -> Administration:
    return Administration(services.store, actor=key.id, defaults=services.settings.default_limits)


async def _threads(services: ServicesOf) -> Workers:
    return services.threads.admin


AdministrationOf = Annotated[Administration, Depends(_administration)]
ThreadsOf = Annotated[Workers, Depends(_threads)]


@router.post("/keys", status_code=201, openapi_extra=describe(KeyRequest))
async def create_key(request: Request, admin: AdministrationOf, threads: ThreadsOf) -> MintedKey:
    """Mint a key; its token is in this reply and nowhere else."""
    wanted = await read_json(request, KeyRequest)
    return await threads.run(admin.create, wanted)


@router.get("/keys")
async def list_keys(
    admin: AdministrationOf,
    threads: ThreadsOf,
    owner: Owner | None = None,
    after: Annotated[KeyId | None, Query(description="`next` of the page before")] = None,
    limit: Limit = 1000,
) -> KeyRecords:
    """Page through the keys, the revoked and expired ones too."""
    return await threads.run(admin.page, owner=owner, after=after, limit=limit)


@router.get("/keys/{key_id}")
async def get_key(key_id: KeyId, admin: AdministrationOf, threads: ThreadsOf) -> KeyRecord:
    """One key, what it may do and where its budget stands."""
    return await threads.run(admin.find, key_id)


@router.patch("/keys/{key_id}", openapi_extra=describe(KeyChange))
async def change_key(
    key_id: KeyId, request: Request, admin: AdministrationOf, threads: ThreadsOf
) -> KeyRecord:
    """Change budget, scopes, expiry or policy, from the next request on."""
    change = await read_json(request, KeyChange)
    return await threads.run(admin.change, key_id, change)


@router.post("/keys/{key_id}/rotate", openapi_extra=describe(KeyRotation))
async def rotate_key(
    key_id: KeyId, request: Request, admin: AdministrationOf, threads: ThreadsOf
) -> MintedKey:
    """Give a key a new token; the old one stops at once, or after the grace asked for."""
    rotation = await read_json(request, KeyRotation)
    return await threads.run(admin.rotate, key_id, grace_s=rotation.grace_s)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(key_id: KeyId, admin: AdministrationOf, threads: ThreadsOf) -> KeyRecord:
    """Refuse a key from now on; requests in flight are finished."""
    return await threads.run(admin.revoke, key_id)


@router.get("/acts")
async def list_acts(
    admin: AdministrationOf,
    threads: ThreadsOf,
    key_id: KeyId | None = None,
    after: After = 0,
    limit: Limit = 1000,
) -> Acts:
    """Page through the audit log: who minted, changed, rotated or revoked which key."""
    return await threads.run(admin.audit_log, key_id=key_id, after=after, limit=limit)


@router.get("/audit")
async def audit(admin: AdministrationOf, threads: ThreadsOf) -> Audit:
    """Hold every counter against the ledger; it reads all of it."""
    return await threads.run(admin.audit)
