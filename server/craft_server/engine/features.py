"""From an image set to features on the device: the one place where images are encoded.

    set's matrix -> records in memory -> records on disk -> decode, preprocess, encode

Owns the caches of matrices and records, and the order of the work. A caller hands in the function
that runs a job on the device thread.

Nothing is shared among owners: the first use of an image takes an owner as long as if nobody else
had it (docs/decisions/0025).
"""

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

from cachetools import LRUCache

from craft_server.concurrency import FairSemaphore
from craft_server.engine.blackbox import BlackBox, Features, Pixels
from craft_server.engine.feature_cache import FeatureCache
from craft_server.images.store import ImageSetRecord, ImageStore
from craft_server.observability.telemetry import Tier
from craft_server.settings import Settings

T = TypeVar("T")

_TURN_BATCHES = 4
"""Of images, in one turn of an owner."""


class RunOnDevice(Protocol):
    """Runs a job on the device thread and gives its result."""

    async def __call__(self, job: Callable[[], T]) -> T:
        """Run one job."""
        ...


class ImageFeatures:
    """Features of image sets, encoded once for each owner, for all callers.

    Callers encode in turns of at most 16 batches, so a large new set does not shut out a small
    one. Within a turn one batch is decoded while the device encodes the one before: at most two
    batches of pixels are in memory.

    Args:
        settings: sizes of caches and batches, and where the disk cache lies.
        blackbox: encodes.
        images: opens and decodes.
    """

    def __init__(self, settings: Settings, blackbox: BlackBox, images: ImageStore) -> None:
        self._blackbox = blackbox
        self._images = images
        self._key = blackbox.image_key
        self._batch = settings.encode_batch
        self._matrices: LRUCache[tuple[str, str], tuple[Features, int]] = LRUCache(
            settings.resident_images, getsizeof=lambda kept: kept[1]
        )
        self._records: LRUCache[tuple[str, str], bytes] = LRUCache(settings.feature_cache)
        self._record_bytes = 0
        self._lock = threading.Lock()
        self._disk = FeatureCache(
            settings.data_dir / "features.db", capacity=settings.feature_disk_images
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="features")
        self._lookups: Counter[tuple[str, str]] = Counter()
        self._turn = FairSemaphore(1)
        self._loading = FairSemaphore(1)

    async def of(
        self, images: ImageSetRecord, run: RunOnDevice, *, patience_s: float = 600.0
    ) -> Features:
        """The set's features, in its order.

        What was encoded stays encoded, also if the caller is cancelled or `run` raises meanwhile.

        Raises:
            StoredImageError: an image's file cannot be opened; other callers are not affected.
            TimeoutError: others encoded for longer than `patience_s`.
            RuntimeError: the model gave a feature that is not finite.
        """
        place = images.owner, images.id
        kept = self._matrices.get(place)
        self._count("device", len(images.digests), found=len(images.digests) if kept else 0)
        if kept:
            return kept[0]
        records = await self._all_records(images, run, patience_s=patience_s)
        async with _within(patience_s, self._loading, images.owner):
            if kept := self._matrices.get(place):
                return kept[0]
            ordered = [records[digest] for digest in images.digests]
            matrix = await run(lambda: self._blackbox.load_features(ordered))
            if len(ordered) <= self._matrices.maxsize:
                self._matrices[place] = matrix, len(ordered)
        return matrix

    def tiers(self) -> list[Tier]:
        """What was found where, and how much is kept; the device's share by its records' size."""
        sizes = {
            "device": int(self._matrices.currsize) * self._record_bytes,
            "memory": int(self._records.currsize) * self._record_bytes,
            "disk": self._disk.bytes,
        }
        return [
            Tier(name, self._lookups[name, "hit"], self._lookups[name, "miss"], size)
            for name, size in sizes.items()
        ]

    def close(self) -> None:
        """Finish what is being written and close the disk cache."""
        self._thread.shutdown()
        self._disk.close()

    async def _all_records(
        self, images: ImageSetRecord, run: RunOnDevice, *, patience_s: float
    ) -> dict[str, bytes]:
        """Records of a set's images by digest, encoding what the owner has nowhere yet."""
        digests = list(dict.fromkeys(images.digests))
        known_of = partial(self._known, images.owner)
        records = await _in(self._thread, partial(known_of, first=True), digests)
        absent = _without(digests, records)
        for some in _slices(absent, self._batch * _TURN_BATCHES):
            async with _within(patience_s, self._turn, images.owner):
                known = await _in(self._thread, known_of, some)  # encoded in the turns before
                fresh = await self._encoded(images.owner, _without(some, known), run)
            records |= known | fresh
        return records

    def _known(
        self, owner: str, digests: Sequence[str], *, first: bool = False
    ) -> dict[str, bytes]:
        """The owner's records that memory or disk has; those from disk are in memory then.

        A look is counted if it is the `first` at these images, not one to see what came meanwhile.
        """
        with self._lock:
            kept = ((digest, self._records.get((owner, digest))) for digest in digests)
            records = {digest: record for digest, record in kept if record is not None}
        if first:
            self._count("memory", len(digests), found=len(records))
        if absent := _without(digests, records):
            stored = self._disk.get(self._shelf(owner), absent)
            if first:
                self._count("disk", len(absent), found=len(stored))
            self._keep(owner, stored)
            records |= stored
        return records

    def _keep(self, owner: str, records: Mapping[str, bytes]) -> None:
        """Keep records in memory, on whatever thread; all records of a model have one size."""
        with self._lock:
            for digest, record in records.items():
                self._records[owner, digest] = record
                self._record_bytes = len(record)

    def _shelf(self, owner: str) -> str:
        """The key of an owner's records on disk: they are of this checkpoint and that owner."""
        return hashlib.sha256(f"{self._key}\0{owner}".encode()).hexdigest()

    def _count(self, tier: str, images: int, *, found: int) -> None:
        """Count a look at a tier; each is looked at by one thread alone."""
        self._lookups[tier, "hit"] += found
        self._lookups[tier, "miss"] += images - found

    async def _encoded(self, owner: str, digests: list[str], run: RunOnDevice) -> dict[str, bytes]:
        """Encode images, each batch while the next is decoded; kept in memory and on disk."""
        batches = list(_slices(digests, self._batch))
        records: dict[str, bytes] = {}
        writes: list[Future[None]] = []
        ahead = self._decode(owner, batches[0]) if batches else []
        try:
            for number, batch in enumerate(batches):
                pixels = await _results(ahead)
                ahead = self._decode(owner, batches[number + 1]) if batch is not batches[-1] else []
                records |= await run(self._job(owner, batch, pixels, writes))
        finally:
            for future in ahead:
                future.cancel()
        await asyncio.shield(_results(writes))
        return records

    def _decode(self, owner: str, batch: Sequence[str]) -> list[Future[Pixels]]:
        return self._images.decode(owner, batch, self._blackbox.preprocess)

    def _job(
        self,
        owner: str,
        batch: Sequence[str],
        pixels: list[Pixels],
        writes: list[Future[None]],
    ) -> Callable[[], dict[str, bytes]]:
        """Keeps what it encodes itself, so that it is kept if the caller is cancelled meanwhile."""

        def encode() -> dict[str, bytes]:
            records = dict(zip(batch, self._blackbox.encode_images(pixels), strict=True))
            pixels.clear()  # the device's thread may hold the job a moment longer
            self._keep(owner, records)
            writes.append(self._thread.submit(self._disk.put, self._shelf(owner), records))
            return records

        return encode


@asynccontextmanager
async def _within(patience_s: float, turns: FairSemaphore, owner: str) -> AsyncIterator[None]:
    """Have an owner's turn, having waited so long for it at most."""
    async with AsyncExitStack() as turn:
        async with asyncio.timeout(patience_s):
            await turn.enter_async_context(turns.slot(owner))
        yield


async def _in(thread: Executor, work: Callable[[list[str]], T], argument: list[str]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, work, argument)


async def _results(futures: Sequence[Future[T]]) -> list[T]:
    return await asyncio.gather(*map(asyncio.wrap_future, futures))


def _without(digests: Sequence[str], known: Mapping[str, bytes]) -> list[str]:
    return [digest for digest in digests if digest not in known]


def _slices(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
