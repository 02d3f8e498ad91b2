"""What can go wrong, one scenario each: a load, and what is done to it while it runs."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.servers import MULTIPART, PLENTY, Wire, multipart, noise_png
from benchmarks.reliability.cluster import Cluster, Replica
from benchmarks.reliability.invariants import Findings, Sampler, check
from benchmarks.reliability.load import Clients, Purchase, draw
from benchmarks.reliability.onlooker import MOST_S, Onlooker, Seen
from benchmarks.reliability.proxy import Proxy
from craft_shared.errors import Code

CLIENTS = 5
PURCHASES = 9
MOST_QUERIES = 3
RACERS = 6
SHARED = 4
MOMENT_S = 0.7
"""Faults come so long after the first answers at most: while clients buy."""

ANSWERED_S = 30.0
AFTER_S = 2.0
"""After a store came back: retries come once a second, and the first finds what was left."""

ONLOOKER = "onlooker"
ENDED_BY_SIGTERM = {0, -15, 143}
"""Exit codes: its own, that of the signal, and that as a container's init says it."""


@dataclass
class Round:
    """One round as a scenario sees it; `said` is for the line of progress.

    `outages` are the times, by `monotonic`, in which the store could not serve anybody.
    """

    cluster: Cluster
    rng: random.Random
    key_id: str
    token: str
    clients: Clients
    findings: Findings
    said: str = ""
    outages: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The store is taken from everybody within the block, and needs a moment afterwards."""
        began = time.monotonic()
        yield
        self.outages.append((began, time.monotonic() + AFTER_S))

    def wait(self) -> None:
        """Until a random moment of the load."""
        self.clients.wait_for_answers()
        time.sleep(self.rng.uniform(0, MOMENT_S))


class Scenario(NamedTuple):
    """How a round goes.

    Attributes:
        disturb: called while the clients run.
        ports: how many of the cluster's ports the clients know.
        proxied: is there a proxy in front of these?
        tight: is the budget less than what the clients want?
        spared: the replica that nothing is done to, at which the onlooker buys.
    """

    disturb: Callable[[Round], None]
    ports: int = 1
    proxied: bool = False
    tight: bool = False
    spared: int = 1


class Played(NamedTuple):
    """What came of a round."""

    findings: Findings
    queries: int
    samples: int
    said: str
    seen: Seen


def race(_: Round) -> None:
    """Nothing but the race: more wanted than the budget has, by processes on both replicas."""


def kill_server(now: Round) -> None:
    """SIGKILL the server and start it again, at once or a little later."""
    server = now.cluster.replicas[0]
    for _ in range(now.rng.choice([1, 1, 2])):
        now.wait()
        server.kill()
        time.sleep(now.rng.choice([0, now.rng.uniform(0, 0.5)]))
        server.start()
        server.wait_until_ready()


def kill_client(now: Round) -> None:
    """SIGKILL clients and start them on their journals."""
    for _ in range(6):
        now.clients.wait_for_answers()
        time.sleep(now.rng.uniform(0, MOMENT_S / 3))
        now.clients.kill(now.rng.randrange(now.clients.size))
    now.said = f"{now.clients.kills} kills"


def proxy(_: Round) -> None:
    """Nothing but the proxy that all clients go through."""


def storm(now: Round) -> None:
    """The proxy, and both sides are killed behind and before it."""
    killer = threading.Thread(target=kill_server, args=(now,))
    killer.start()
    for _ in range(3):
        now.clients.kill(now.rng.randrange(now.clients.size))
        now.clients.wait_for_answers()
    killer.join()


def disk_full(now: Round) -> None:
    """No room to write, for ledger and images, then room again; an upload meanwhile is refused."""
    now.wait()
    server = now.cluster.replicas[0]
    uploads = threading.Thread(target=_upload_until_done, args=(now, now.cluster.ports[0]))
    uploads.start()
    with now.outage():
        now.said = now.cluster.store.full(now.rng, server.pids)
    uploads.join()


def store_down(now: Round) -> None:
    """The store stops answering, in one of several ways, and comes back."""
    now.wait()
    with now.outage():
        now.said = now.cluster.store.down(now.rng)


def drain(now: Round) -> None:
    """SIGTERM under load: what is in work is answered, what comes after is refused, none lost."""
    drain_all(now, now.cluster.replicas[:1])


def drain_all(now: Round, servers: Sequence[Replica]) -> None:
    """SIGTERM to all servers that the clients can reach, at the same time."""
    in_work = stop_all(now, servers)
    end = time.monotonic() + ANSWERED_S
    while (lost := in_work - _answered(now.clients)) and time.monotonic() < end:
        time.sleep(0.02)  # a client takes a moment to write down the reply
    if lost:
        now.findings.add("drained", f"in work and never answered: {lost}", len(lost))
    for server in servers:
        server.start()


def stop_all(now: Round, servers: Sequence[Replica]) -> set[str]:
    """SIGTERM at a random moment; what was in work until then. Nothing is held when all ended."""
    now.wait()
    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(lambda server: server.stop(), servers))
    in_work = set(now.cluster.ledger.requests(now.key_id))
    if not set(codes) <= ENDED_BY_SIGTERM:
        now.findings.add("other", f"after SIGTERM the servers exit with {codes}")
    if held := now.cluster.ledger.held(now.key_id, [server.name for server in servers]):
        now.findings.add("other", f"held after the servers ended: {held}")
    now.said = f"{len(in_work)} in work until SIGTERM"
    return in_work


def kill_replica(now: Round) -> None:
    """SIGKILL one of two: its holds return when it starts again, or else when they expire."""
    now.wait()
    lost = now.cluster.replicas[1]
    lost.kill()
    if now.rng.random() < 0.5:
        lost.start()
        now.said = "started again"
    else:
        now.said = "its holds expire"


SCENARIOS = {
    "race": Scenario(race, ports=2, tight=True),
    "kill-server": Scenario(kill_server),
    "kill-client": Scenario(kill_client, ports=2),
    "proxy": Scenario(proxy, proxied=True),
    "disk-full": Scenario(disk_full),
    "store-down": Scenario(store_down, ports=2),
    "drain": Scenario(drain),
    "kill-replica": Scenario(kill_replica, ports=2, spared=0),
    "storm": Scenario(storm, proxied=True),
}


def play(cluster: Cluster, scenario: Scenario, folder: Path, rng: random.Random) -> Played:
    """Play a round to its end and check its ledger."""
    shares = (_race_shares if scenario.tight else _shares)(cluster, rng, folder.name)
    wanted = {purchase.name: purchase for share in shares for purchase in share}.values()
    limit, texts = sum(one.queries for one in wanted), sum(one.texts for one in wanted)
    if scenario.tight:
        limit = rng.randint(5, sum(one.queries == 1 for one in wanted))
    key_id, token = cluster.mint(limit, texts=texts)
    clients = Clients(folder, token, shares)
    now = Round(cluster, rng, key_id, token, clients, Findings())
    with (
        Sampler(cluster.ledger, key_id) as sampler,
        _ports(scenario, now) as ports,
        _onlooker(cluster, scenario) as onlooker,
    ):
        began = time.monotonic()
        try:
            clients.start(ports)
            scenario.disturb(now)
            complaints = clients.finish()
        finally:
            clients.close()
        seen = onlooker.during(began, time.monotonic(), without=now.outages)
    cluster.heal()
    findings = check(cluster, key_id, token, clients=clients, sampler=sampler)
    findings.counts.update(now.findings.counts)
    findings.details += now.findings.details
    for complaint in complaints:
        findings.add("other", complaint)
    if not seen.good and _has_spared(cluster):
        detail = f"another owner: {seen.failures} failed ({', '.join(seen.codes)})"
        findings.add("starved", f"{detail}, 99th percentile {seen.p99_s:.2f} s (at most {MOST_S})")
    balance = cluster.ledger.balance(key_id)
    sold = 0 if balance is None else balance.queries.sold
    if sold != limit:
        findings.add("other", f"{sold} queries were sold, {limit} were to be")
    said = "; ".join(part for part in (now.said, clients.statuses()) if part)
    return Played(findings, sold, sampler.samples, said, seen)


def _has_spared(cluster: Cluster) -> bool:
    """Behind one address, what is done to any replica is done to everybody."""
    return len(cluster.ports) > 1


def _onlooker(cluster: Cluster, scenario: Scenario) -> Onlooker:
    """Another owner at the replica that is spared, or at the one address that all have."""
    port = cluster.ports[min(scenario.spared, len(cluster.ports) - 1)]
    _, token = cluster.mint(PLENTY, ONLOOKER)
    image_set = Wire(port, token).image_set([noise_png(0)])
    return Onlooker([port], token, image_set)


def _shares(cluster: Cluster, rng: random.Random, name: str) -> list[list[Purchase]]:
    """Every client has purchases of its own, and the budget is what they cost together."""
    return [
        [
            draw(rng, f"{name}/{client}/{number}", cluster.image_set, most=MOST_QUERIES)
            for number in range(PURCHASES)
        ]
        for client in range(CLIENTS)
    ]


def _race_shares(cluster: Cluster, rng: random.Random, name: str) -> list[list[Purchase]]:
    """More than the budget, a part of it wanted by all clients under the same names."""
    shared = [
        draw(rng, f"{name}/shared/{number}", cluster.image_set, most=MOST_QUERIES)
        for number in range(SHARED)
    ]
    shares = []
    for client in range(RACERS):
        own = [
            draw(rng, f"{name}/{client}/{number}", cluster.image_set, most=rng.choice([1, 3]))
            for number in range(PURCHASES)
        ]
        shares.append(rng.sample([*own, *shared], PURCHASES + SHARED))
    return shares


@contextmanager
def _ports(scenario: Scenario, now: Round) -> Iterator[Sequence[int]]:
    ports = now.cluster.ports[: scenario.ports]
    if not scenario.proxied:
        yield ports
        return
    with Proxy(ports[0], random.Random(now.rng.random())) as between:
        yield [between.port]
    now.clients.overheard += between.seen
    harm = sum(between.counts.values()) - between.counts["passes"]
    now.said = f"{harm} of {sum(between.counts.values())} requests harmed"


def _answered(clients: Clients) -> set[str]:
    return {line["name"] for line in clients.lines() if line["status"]}


def _upload_until_done(now: Round, port: int) -> None:
    """An upload on a full disk is refused with a code that says to try again; later it works."""
    body = multipart([noise_png(now.rng.getrandbits(32))])
    wire = Wire(port, now.token, timeout_s=60)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            reply = wire.send("POST", "/v1/images", body, Content_Type=MULTIPART)
            content = reply.read()
        except (OSError, HTTPException) as error:
            now.findings.add("other", f"an upload got no answer: {error!r}")
            return
        if reply.status == 200:
            return
        code = json.loads(content)["code"]
        if (reply.status, code) != (503, Code.NOT_READY):
            now.findings.add("unexpected", f"an upload: {reply.status} {content[:200]!r}")
        time.sleep(0.1)
    now.findings.add("other", "an upload is still refused though there is room")
