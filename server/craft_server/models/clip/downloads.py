"""What a tag of open_clip downloads: is it here already, and if not, can it be had?

open_clip takes the Hugging Face hub's cache and ~/.cache/clip; nothing is downloaded here.
"""

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

import open_clip
from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache

from craft_server.models.clip.published import hub_files

_ANSWERS_S = 5.0
_CACHE = Path(os.path.expanduser("~/.cache/clip"))  # noqa: PTH111 - accounts may have no home


class Download(NamedTuple):
    """The file of a tag.

    `path` is where it lies on this machine, None if it does not; `addresses` are where it is had
    else, the first that answers.
    """

    path: Path | None
    addresses: list[str]


def download_of(name: str, tag: str) -> Download:
    """Of a tag that a model has."""
    config = open_clip.get_pretrained_cfg(name, tag)
    repository, files = hub_files(config)
    if repository:
        found = (try_to_load_from_cache(repository, file) for file in files)
        here = next((Path(each) for each in found if isinstance(each, str)), None)
        return Download(here, [hf_hub_url(repository, file) for file in files])
    url = str(config["url"])
    file = _CACHE / PurePosixPath(url).name
    return Download(file if file.is_file() else None, [url])


def unreachable(addresses: list[str]) -> str | None:
    """Why none of the addresses has a file now; None if one has."""
    if constants.HF_HUB_OFFLINE and any(each.startswith(constants.ENDPOINT) for each in addresses):
        return "HF_HUB_OFFLINE is set"
    troubles = [_trouble(each) for each in addresses]
    return None if None in troubles else troubles[-1]


def _trouble(address: str) -> str | None:
    host = urlsplit(address).hostname
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - open_clip's own
    try:
        with urllib.request.urlopen(request, timeout=_ANSWERS_S):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"{host} answers {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        return f"{host}: {getattr(error, 'reason', None) or error}"
