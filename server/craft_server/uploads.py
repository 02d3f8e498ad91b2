"""Admission of uploads: how many bodies may be in memory at a time; the rest wait unread.

Must not know HTTP: whoever asks hands in the way to read the body.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from craft_server.image_store import ImageStore
from craft_shared.errors import Code, Refusal
from craft_shared.messages import StoredImage

_RETRY_AFTER_S = 5


class UploadDoor:
    """Lets a few uploads in at a time and stores them on threads of its own.

    An upload waits for decoding and for the disk: on the event loop's common threads it would
    keep the ledger waiting too.

    Args:
        images: where images are kept.
        places: uploads read and stored at a time.
        deadline_s: longest wait plus reading, so that slow senders do not keep the places.
    """

    def __init__(self, images: ImageStore, *, places: int, deadline_s: float) -> None:
        self._images = images
        self._places = asyncio.Semaphore(places)
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(places, thread_name_prefix="upload")

    async def add(
        self, owner: str, read: Callable[[], Awaitable[Sequence[bytes]]]
    ) -> list[StoredImage]:
        """Wait for a place, read the files, keep them; see `ImageStore.add`.

        Raises:
            Refusal: `deadline_exceeded`, or what `read` or `ImageStore.add` refuse.
        """
        try:
            async with asyncio.timeout(self._deadline_s), self._places:
                return await self._keep(owner, await read())
        except TimeoutError as error:
            detail = f"the upload was not read after {self._deadline_s:g} s; send fewer files"
            raise Refusal(Code.DEADLINE_EXCEEDED, detail, retry_after_s=_RETRY_AFTER_S) from error

    def close(self) -> None:
        """Let running uploads finish and end the threads."""
        self._threads.shutdown()

    async def _keep(self, owner: str, files: Sequence[bytes]) -> list[StoredImage]:
        """Store on a thread; the place is taken until that ends, also if the caller leaves."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, self._images.add, owner, files)
        try:
            return await asyncio.shield(work)
        finally:
            await asyncio.wait([work])
