"""The fault campaign on docker-compose.yml's profile `scale`: an exact ledger behind nginx.

    python -m benchmarks faults-compose --overlay
    python -m benchmarks faults-compose --project NAME --port PORT --database URL
                                        [--rounds 22] [--seconds 600] [--seed 0]
                                        [--only SCENARIO] [--json FILE]

The rounds of faults.py, with clients that know nothing but nginx's port, replicas that are
containers, and their Postgres, which URL (SQLAlchemy's) reaches. NAME is a project of Compose that
runs the profile with what --overlay prints laid over docker-compose.yml: the stub model, holds that
expire in seconds, and ports on the loopback address. Exits 1 if anything is found. What another
owner sees is shown and has no bound: he too asks nginx, which may ask a replica that was killed.
"""

import json
import tempfile
import time
from pathlib import Path

from benchmarks.common.machine import describe, options_of, print_heading
from benchmarks.reliability.cluster import SETTINGS, Cluster
from benchmarks.reliability.containers import (
    LISTENS,
    Compose,
    PostgresContainer,
    ReplicaContainer,
    log_of,
)
from benchmarks.reliability.faults import conclude, play_all
from benchmarks.reliability.scenarios import (
    SCENARIOS,
    Round,
    Scenario,
    drain_all,
    kill_replica,
    kill_server,
    stop_all,
)

SLOWER = {"stub_seconds_per_query": 0.08}
"""An engine takes a moment for each command: the clients must still be buying then."""

OVERLAY = {
    "replica": {
        "environment": {
            f"CRAFT_SERVER_{key.upper()}": str(value) for key, value in (SETTINGS | SLOWER).items()
        },
        "ports": [f"127.0.0.1::{LISTENS}"],
    },
    "postgres": {"ports": ["127.0.0.1:${CRAFT_FAULTS_DATABASE_PORT:-15432}:5432"]},
}
"""Parts of services, as Compose lays them over docker-compose.yml."""

STAYS = {200, 409}
"""Replies to a client while one of two replicas is restarted as it should be."""

FAILED_TRY = (" upstream, client: ", " response header from upstream")
"""Marks of a line in nginx's log on a try at a replica that came to nothing."""


def kill_all(now: Round) -> None:
    """SIGKILL to all replicas at once: there is nobody whom nginx could ask."""
    now.wait()
    for replica in now.cluster.replicas:
        replica.kill()
    time.sleep(now.rng.uniform(0, 1))
    for replica in now.cluster.replicas:
        replica.start()


def drain(now: Round) -> None:
    """SIGTERM to all replicas: what is in work is answered, what comes after is refused."""
    drain_all(now, now.cluster.replicas)


def restart(now: Round) -> None:
    """SIGTERM to one of two under load, as an upgrade does: no client notices."""
    replica = now.rng.choice(now.cluster.replicas)
    stop_all(now, [replica])
    replica.start()
    replica.wait_until_ready()
    for name, answers in now.clients.answers().items():
        if noticed := [answer for answer in answers if answer.status not in STAYS]:
            now.findings.add("drained", f"{name} while one replica was restarted: {noticed}")


COMPOSED = {
    "race": SCENARIOS["race"],
    "kill-server": Scenario(kill_server),
    "kill-replica": Scenario(kill_replica),
    "kill-all": Scenario(kill_all),
    "kill-client": SCENARIOS["kill-client"],
    "proxy": SCENARIOS["proxy"],
    "storm": SCENARIOS["storm"],
    "disk-full": SCENARIOS["disk-full"],
    "store-down": SCENARIOS["store-down"],
    "drain": Scenario(drain),
    "restart": Scenario(restart),
}


def failed_tries(compose: Compose) -> int:
    """How often nginx met a replica that gave no answer, and asked the other one."""
    [proxy] = compose.containers("scale")
    return sum(all(mark in line for mark in FAILED_TRY) for line in log_of(proxy).splitlines())


def main() -> None:
    """Play, add up, and exit 1 if anything is wrong."""
    options = options_of(
        __doc__,
        rounds=22,
        seconds=600.0,
        seed=0,
        only="",
        project="",
        port=0,
        database="",
        overlay=False,
    )
    if options.overlay:
        print(json.dumps({"services": OVERLAY}, indent=2))
        return
    if options.only not in {"", *COMPOSED}:
        raise SystemExit(f"--only one of {', '.join(COMPOSED)}, not {options.only}")
    chosen = {options.only: COMPOSED[options.only]} if options.only else COMPOSED
    about = describe()
    print_heading(f"Faults, composed: {options.rounds} rounds, seed {options.seed}", about)
    began = time.monotonic()
    compose = Compose(options.project)
    [postgres] = compose.containers("postgres")
    store = PostgresContainer(postgres, options.database)
    replicas = [ReplicaContainer(container) for container in compose.containers("replica")]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Cluster(store, replicas, [options.port]) as cluster,
    ):
        rows = play_all(
            cluster,
            chosen,
            Path(folder),
            rounds=options.rounds,
            seed=options.seed,
            seconds=options.seconds,
        )
    print(f"\nnginx met {failed_tries(compose)} tries that a replica did not answer")
    conclude(rows, time.monotonic() - began, options, about)


if __name__ == "__main__":
    main()
