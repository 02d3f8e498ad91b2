"""Admission of uploads: how many bodies may be in memory at a time; the rest wait unread.

Owns the slots and the threads that store. A caller hands in the function that reads its body.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from craft_server.concurrency import FairSemaphore, on_thread
from craft_server.images.store import ImageStore
from craft_shared.errors import Code, Refusal
from craft_shared.messages import StoredImage

T = TypeVar("T")

_RETRY_AFTER_S = 5


class UploadAdmission:
    """Admits a few uploads at a time and stores them on threads of its own.

    An upload waits for decoding and for the disk: on the event loop's common threads it would
    keep the ledger waiting too.

    Args:
        images: where images are kept.
        slots: uploads read and stored at a time.
        deadline_s: longest wait plus reading, so that slow senders do not keep the slots.
    """

    def __init__(self, images: ImageStore, *, slots: int, deadline_s: float) -> None:
        self._images = images
        self._slots = FairSemaphore(slots)
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="upload")

    async def add(
        self,
        owner: str,
        read: Callable[[], Awaitable[Sequence[bytes]]],
        *,
        owner_bytes: int | None = None,
    ) -> list[StoredImage]:
        """Wait for a slot, read the files, keep them; see `ImageStore.add`.

        Raises:
            Refusal: `deadline_exceeded`, or what `read` or `ImageStore.add` refuse.
        """
        end = time.monotonic() + self._deadline_s
        try:
            async with asyncio.timeout(self._deadline_s), AsyncExitStack() as slot:
                await slot.enter_async_context(self._slots.slot(owner))
                files = await read()
                keep = partial(self._images.add, owner, files, owner_bytes=owner_bytes, end=end)
                return await on_thread(self._threads, keep, slot.pop_all())
        except TimeoutError as error:
            detail = f"the upload was not read after {self._deadline_s:g} s; send fewer files"
            raise Refusal(Code.DEADLINE_EXCEEDED, detail, retry_after_s=_RETRY_AFTER_S) from error

    async def do(self, owner: str, work: Callable[[], T]) -> T:
        """Wait for a slot and do other work on images, which reads all that an owner has.

        Raises:
            Refusal: `deadline_exceeded`, or what the work refuses.
        """
        try:
            async with asyncio.timeout(self._deadline_s), AsyncExitStack() as slot:
                await slot.enter_async_context(self._slots.slot(owner))
                return await on_thread(self._threads, work, slot.pop_all())
        except TimeoutError as error:
            detail = f"no slot was free for {self._deadline_s:g} s; others of this owner have them"
            raise Refusal(Code.DEADLINE_EXCEEDED, detail, retry_after_s=_RETRY_AFTER_S) from error

    def close(self) -> None:
        """Let running uploads finish and end the threads."""
        self._threads.shutdown()
