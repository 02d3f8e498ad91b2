"""What a fault campaign disturbs: two craft-server replicas on one store, and its ledger.

The servers are the real program, started, stopped and killed as often as a round wants: processes
here, containers in containers.py. Keys are minted in this process; the ledger is read by SQL
of our own, not by the server's.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from sqlalchemy import bindparam, create_engine, text
from sqlalchemy.exc import DBAPIError

from benchmarks.common.programs import SERVER
from benchmarks.common.servers import HOST, READY_S, Wire, free_port, noise_png
from benchmarks.reliability.stores import Faulty
from craft_server.accounts.keys import Keys
from craft_server.db.store import Store

OWNER = "faults"
IMAGES = 5
HOLD_S = 4.0
SETTINGS = {
    "model": "stub",
    "stub_seconds_per_query": 0.012,
    "hold_s": HOLD_S,
    "sweep_s": 1,
    "reply_bytes": 100,  # about half of the replies are stored, the others are computed again
}
STOPPED_S = 90.0

COUNTERS = ("queries", "logit_vectors", "texts", "logits")
_STAND = """{0}_limit, {0}_used, {0}_held,
           (SELECT coalesce(sum({0}), 0) FROM ledger WHERE key_id = keys.id)"""
_STANDS = ", ".join(_STAND.format(name) for name in COUNTERS)
_BALANCE = text(f"SELECT {_STANDS} FROM keys WHERE id = :key")  # noqa: S608 - names stand above
_SOLD = text("SELECT request_id, queries FROM ledger WHERE key_id = :key")
_REQUESTS = text("SELECT idem_key, state FROM requests WHERE key_id = :key")
_HELD = text("""
    SELECT idem_key FROM requests
    WHERE key_id = :key AND state = 'held' AND holder IN :holders""").bindparams(
    bindparam("holders", expanding=True)
)


class Stand(NamedTuple):
    """Where one limit of a key stands."""

    limit: int | None
    used: int
    held: int
    sold: int
    """The sum of its ledger."""

    @property
    def overdrawn(self) -> bool:
        """Is more used and held, or sold, than the limit allows?"""
        return self.limit is not None and max(self.used + self.held, self.sold) > self.limit


class Balance(NamedTuple):
    """A key's balance at one moment, in each counter that can be limited."""

    queries: Stand
    logit_vectors: Stand
    texts: Stand
    logits: Stand

    @property
    def overdrawn(self) -> bool:
        """Is it in any counter?"""
        return any(stand.overdrawn for stand in self)

    @property
    def held(self) -> bool:
        """Is anything?"""
        return any(stand.held for stand in self)

    @property
    def agrees(self) -> bool:
        """Is all that is used in the ledger, and nothing else?"""
        return all(stand.used == stand.sold for stand in self)


class LedgerReader:
    """The tables as they are, read in transactions of one statement."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_pre_ping=True, connect_args=_patience(url))

    def balance(self, key_id: str) -> Balance | None:
        """A key's balance; None while the store does not answer."""
        try:
            row = self._rows(_BALANCE, key_id)[0]
        except DBAPIError:
            return None
        stands = (row[at : at + 4] for at in range(0, 4 * len(COUNTERS), 4))
        return Balance(*(Stand(limit, *map(int, rest)) for limit, *rest in stands))

    def sold(self, key_id: str) -> list[tuple[str, int]]:
        """Name and queries of each line of the ledger."""
        return [(str(name), int(queries)) for name, queries in self._rows(_SOLD, key_id)]

    def requests(self, key_id: str) -> dict[str, str]:
        """The state of each request that ever was in work."""
        return {str(name): str(state) for name, state in self._rows(_REQUESTS, key_id)}

    def held(self, key_id: str, holders: Sequence[str]) -> list[str]:
        """Requests that replicas of these names hold."""
        return [str(name) for (name,) in self._rows(_HELD, key_id, holders=list(holders))]

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    def _rows(self, query: Any, key_id: str, **values: object) -> Sequence[Any]:
        with self._engine.connect() as connection:
            return connection.execute(query, {"key": key_id} | values).all()


class Replica(Protocol):
    """One server, under the same name whenever it runs."""

    name: str

    @property
    def pids(self) -> Sequence[int]:
        """Ids of its processes."""
        ...

    def start(self) -> None:
        """Start it if it does not run."""
        ...

    def wait_until_ready(self) -> None:
        """Return when it serves."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...

    def stop(self) -> int:
        """SIGTERM; its exit code when it has ended."""
        ...

    def close(self) -> None:
        """See that it leaves nothing behind."""
        ...


class ReplicaProcess:
    """A process of this machine, on the same port whenever it runs."""

    def __init__(self, folder: Path, name: str, database_url: str) -> None:
        self.name = name
        self.port = free_port()
        self._log = folder / f"server-{name}.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CRAFT_SERVER_")}
        own = {"data_dir": folder, "host": HOST, "port": self.port, "replica": name}
        values = SETTINGS | own | {"database_url": database_url}
        named = {f"CRAFT_SERVER_{key.upper()}": str(value) for key, value in values.items()}
        self._environment = inherited | named
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pids(self) -> list[int]:
        """Id of its process."""
        return [self._running.pid]

    def start(self) -> None:
        """Start it if it does not run."""
        if not self._runs:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [SERVER, "serve"], env=self._environment, stdout=log, stderr=log
                )

    def wait_until_ready(self) -> None:
        """Return when it serves."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self._runs:
            try:
                Wire(self.port, timeout_s=30).read("GET", "/readyz")
            except (OSError, HTTPException):
                time.sleep(0.05)
            else:
                return
        raise SystemExit(f"server {self.name} is not ready; its log ends:\n{self.log()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        self._running.kill()
        self._running.wait()

    def stop(self) -> int:
        """SIGTERM; its exit code when it has ended."""
        self._running.send_signal(signal.SIGTERM)
        return self._running.wait(STOPPED_S)

    def close(self) -> None:
        """Kill it if it runs."""
        if self._runs:
            self.kill()

    def log(self) -> str:
        """All that it ever said."""
        return self._log.read_text(errors="replace")

    @property
    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise SystemExit(f"server {self.name} was never started")
        return self._process


class Cluster:
    """Two replicas on one store; a context manager that leaves nothing running.

    Args:
        store: what keeps the ledger.
        replicas: the servers on it.
        ports: where clients find them, each or together.
    """

    def __init__(self, store: Faulty, replicas: Sequence[Replica], ports: Sequence[int]) -> None:
        self.store = store
        self.replicas = replicas
        self.ports = ports
        self.ledger = LedgerReader(store.url)
        self.image_set = ""
        self._keys_store = Store(store.url, busy_timeout_s=60)
        self._keys = Keys(self._keys_store)

    def __enter__(self) -> Self:
        try:
            self.heal()
            _, token = self.mint(1)
            files = [noise_png(seed) for seed in range(IMAGES)]
            self.image_set = Wire(self.ports[0], token).image_set(files)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas:
            replica.close()
        self.ledger.close()
        self._keys_store.close()
        self.store.close()

    def mint(
        self, queries: int, owner: str = OWNER, *, texts: int | None = None
    ) -> tuple[str, str]:
        """Id and token of a new key; its other limits are those that go with so many texts."""
        logits = None if texts is None else texts * IMAGES
        vectors = None if texts is None else queries * IMAGES
        minted = self._keys.create(
            owner, queries, logit_vectors_limit=vectors, texts_limit=texts, logits_limit=logits
        )
        return minted.key.id, minted.token

    def heal(self) -> None:
        """Start what does not run, and wait until all serve."""
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            replica.wait_until_ready()


def processes(store: Faulty, folder: Path) -> Cluster:
    """Two processes of this machine, each on a port of its own."""
    replicas = [ReplicaProcess(folder, name, store.url) for name in ("a", "b")]
    return Cluster(store, replicas, [replica.port for replica in replicas])


def _patience(url: str) -> dict[str, object]:
    return {"timeout": 60} if url.startswith("sqlite") else {"connect_timeout": 30}
