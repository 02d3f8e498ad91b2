"""Uploads by content address, image sets, and how to be rid of them."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import UploadFile

from craft_server.accounts.shares import Caller
from craft_server.api.bodies import JSON_MEDIA_TYPE, describe, in_turns, media_type, read_json
from craft_server.api.dependencies import ImagesKey, ServicesOf
from craft_shared.errors import Code, Refusal
from craft_shared.messages import (
    ImageSet,
    ImageSetId,
    ImageSetRequest,
    ImageSets,
    Manifest,
    ManifestReply,
    UploadReply,
)

router = APIRouter(tags=["images"])

_MULTIPART = "multipart/form-data"
_FILES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            }
        },
    }
}


@router.post("/v1/images/missing", response_model=ManifestReply, openapi_extra=describe(Manifest))
async def missing(request: Request, services: ServicesOf, key: ImagesKey) -> Response:
    """Say which images are not here yet, so that nothing is sent twice."""
    manifest = await read_json(request, Manifest, key=key)

    def look() -> str:  # 6.7 MB of ids: to check and to write them here keeps nobody waiting
        absent = services.images.missing(key.owner, manifest.ids)
        return ManifestReply.model_construct(missing=absent).model_dump_json()

    body = await services.image_sets.run(Caller.of(key), look)
    return Response(body, media_type=JSON_MEDIA_TYPE)


@router.post("/v1/images", openapi_extra=_FILES)
async def upload(request: Request, services: ServicesOf, key: ImagesKey) -> UploadReply:
    """Upload image files (field `files`): JPEG, PNG or WEBP. All are kept, or none."""
    media_type(request, _MULTIPART)
    body = in_turns(request, partial(services.pacing.turn, key.owner))
    read = partial(_read_files, body, services.settings.max_files)
    quota = key.policy.image_bytes
    return UploadReply(images=await services.uploads.add(key.owner, read, owner_bytes=quota))


async def _read_files(request: Request, max_files: int) -> list[bytes]:
    """The files of a multipart body, which nobody has read yet; the cap on bodies bounds them."""
    async with request.form(max_files=max_files, max_fields=0) as form:
        files = [item for item in form.getlist("files") if isinstance(item, UploadFile)]
        if not files or len(files) != len(form.multi_items()):
            detail = "send one or more files, each in a multipart field named `files`"
            raise Refusal(Code.INVALID_REQUEST, detail, param="files")
        return [await file.read() for file in files]


@router.post("/v1/image-sets", openapi_extra=describe(ImageSetRequest))
async def create_set(request: Request, services: ServicesOf, key: ImagesKey) -> ImageSet:
    """Name an ordered list of uploaded images; the same list always has the same id."""
    wanted = await read_json(request, ImageSetRequest, key=key)
    create = partial(services.images.create_set, key.owner, wanted.images, name=wanted.name)
    return await services.image_sets.run(Caller.of(key), create)


@router.get("/v1/image-sets")
async def list_sets(
    services: ServicesOf,
    key: ImagesKey,
    after: Annotated[ImageSetId | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ImageSets:
    """Page through the owner's image sets."""
    page = partial(services.images.page_sets, key.owner, after=after or "", limit=limit)
    return await services.image_sets.run(Caller.of(key), page)


@router.get("/v1/image-sets/{set_id}")
async def get_set(set_id: str, services: ServicesOf, key: ImagesKey) -> ImageSet:
    """What a set is called and how many images it has."""
    describe_it = partial(services.images.describe_set, key.owner, set_id)
    return await services.image_sets.run(Caller.of(key), describe_it)


@router.delete("/v1/image-sets/{set_id}", status_code=204)
async def delete_set(set_id: str, services: ServicesOf, key: ImagesKey) -> None:
    """Forget a set. What was bought on it is asked for again only once the set is made again."""
    delete = partial(services.images.delete_set, key.owner, set_id)
    await services.uploads.do(key.owner, delete)


@router.delete("/v1/images/{image_id}", status_code=204)
async def delete_image(image_id: str, services: ServicesOf, key: ImagesKey) -> None:
    """Forget an image that is in no set; its bytes count until they are gone, some time later."""
    delete = partial(services.images.delete, key.owner, image_id)
    await services.uploads.do(key.owner, delete)
