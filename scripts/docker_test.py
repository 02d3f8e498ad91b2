"""The images and docker-compose.yml, from nothing to exact books, on a real engine.

    python -m scripts.docker_test [--keep] [--compose COMMAND] [--rounds 22]
                                  [--prepare-minutes 20] [--test-minutes 25]

Installs and starts an engine if none runs (as root on Debian), builds both images, scans them, and
runs what docs/docker.md promises: a server that is ready, a demo fit by the tuner's container and
one from the host, two replicas on Postgres of which one crashes during a fit, Prometheus, and the
fault campaign on that. Where an image cannot be pulled a stand-in of Debian's packages takes its
place. Says `skipped:` and why, and succeeds, where there can be no engine, disk is short, no base
can be made, or engine and images take too long. Removes all that it made, unless --keep is given.
"""

import argparse
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

from scripts import docker_scan
from scripts.docker_engine import (
    LOCAL,
    STAND_INS,
    Interrupted,
    Skipped,
    base_image,
    compose_command,
    engine,
    run,
    stand_ins,
    within,
    works,
)
from scripts.docker_stack import PROFILES, ROOT, Stack
from scripts.docker_steps import check, disturbed, from_host, observed, say, scaled, single

DISK_BYTES = {"overlay2": 25e9, "vfs": 150e9}
"""What a storage driver needs. CUDA wheels are 6 GB an image, and the classic builder keeps a copy
of each stage; vfs copies all that is below a layer as well."""


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep images, containers and volumes")
    parser.add_argument("--compose", nargs="+", help="the Compose to test")
    parser.add_argument("--rounds", type=int, default=22, help="of the fault campaign")
    parser.add_argument("--prepare-minutes", type=float, default=20, help="for engine and images")
    parser.add_argument("--test-minutes", type=float, default=25, help="for what follows")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stopped)
    try:
        with ExitStack() as stay:
            minutes = options.prepare_minutes
            with within(60 * minutes, Skipped(f"engine and images take over {minutes:.0f} min")):
                stay.enter_context(engine())
                stack = Stack(
                    options.compose or compose_command(),
                    Path(stay.enter_context(tempfile.TemporaryDirectory(prefix="craft-docker-"))),
                )
                stack.remove()
                if not options.keep:
                    stay.callback(clean, stack)
                base = build(stack)
            try:
                minutes = options.test_minutes
                with within(60 * minutes, Interrupted(f"it takes over {minutes:.0f} min")):
                    test(stack, base, options.rounds)
            except (SystemExit, Interrupted):
                stack.tell()
                raise
    except Skipped as reason:
        say(f"skipped: {reason}")
    except (SystemExit, Interrupted) as failure:
        raise SystemExit(f"docker-test: failed: {failure}") from None


def _stopped(_: int, __: object) -> NoReturn:
    raise Interrupted("stopped by SIGTERM")


def test(stack: Stack, base: str, rounds: int) -> None:
    """Every promise, one after the other."""
    for profile in ("", *PROFILES):
        stack.check(profile)
    say(f"docker-compose.yml is valid, alone and with {', '.join(PROFILES)}")
    for program in ("server", "tuner"):
        image = f"{LOCAL}/{program}"
        if found := list(docker_scan.faults(image, program, base)):
            raise SystemExit("\n".join([f"the image {image}:", *found[:20]]))
        say(f"{program}: {docker_scan.size(image)}, scanned: uid 10001, no build tools, no secrets")
    results = [single(stack), *from_host(stack)]
    stack("stop", "server")
    results.append(scaled(stack))
    observed(stack)
    stack("stop", "prometheus")
    accuracies = {result["evaluation"]["adapted"]["accuracy"] for result in results}
    check(len(accuracies) == 1, f"fits of one seed reach different accuracies: {accuracies}")
    say(f"{len(results)} fits of one seed, all {accuracies.pop():.4f} accurate; all books exact")
    disturbed(stack, rounds)


def build(stack: Stack) -> str:
    """Both images, and stand-ins for what cannot be pulled; the name of the base.

    Raises:
        Skipped: disk is short, or there is nothing to build on.
    """
    began = time.monotonic()
    say(f"engine {run('docker', 'version', '--format', '{{.Server.Version}}')}, {stack.compose}")
    images = {name: f"{LOCAL}/{name}" for name in ("server", "tuner")}
    if not all(works("docker", "image", "inspect", image) for image in images.values()):
        _check_disk()
    base = base_image()
    others = stand_ins(base, list(STAND_INS))
    say(f"base {base}; stand-ins for {', '.join(others) or 'nothing'}")
    _build(base, images)
    services: dict[str, Any] = {name: {"image": image} for name, image in images.items()}
    services["replica"] = {"image": images["server"]}
    in_place = {
        "scale": "nginx:1.28-alpine",
        "postgres": "postgres:17-alpine",
        "prometheus": "prom/prometheus:v3.5.0",
    }
    services |= {name: {"image": others[i]} for name, i in in_place.items() if i in others}
    stack.lay_over(services)
    say(f"images built in {time.monotonic() - began:.0f} s")
    return base


def _check_disk() -> None:
    driver, place = run("docker", "info", "--format", "{{.Driver}} {{.DockerRootDir}}").split(
        " ", 1
    )
    if not Path(place).exists():  # the engine is another machine
        return
    free, needed = shutil.disk_usage(place).free, DISK_BYTES.get(driver, DISK_BYTES["overlay2"])
    if free < needed:
        words = f"{needed / 1e9:.0f} GB of disk are needed with {driver}"
        raise Skipped(f"{words}, {free / 1e9:.0f} GB are free")


def _build(base: str, images: Mapping[str, str]) -> None:
    """With PyTorch's CPU wheels or, where they cannot be had, with those of the package index."""
    backend: list[str] = []
    for program, image in images.items():
        where = ("--target", program, "-t", image, "--build-arg", f"BASE={base}", str(ROOT))
        command = ("docker", "build", "-q", "--force-rm", "--label", f"{LOCAL}=image", *where)
        if backend or not works(*command):
            if not backend:
                say("no CPU wheels of PyTorch; taking those of the package index (CUDA on x86_64)")
            backend = ["--build-arg", "TORCH_BACKEND="]
            if not works(*command, *backend):  # a registry may fail once
                run(*command, *backend)


def clean(stack: Stack) -> None:
    """Remove containers, volumes and images; says so if some are left, and hides no failure."""
    with suppress(SystemExit):
        stack.remove()
        form = "{{.Repository}}:{{.Tag}}"
        images = run("docker", "images", "--format", form, f"{LOCAL}/*").split()
        labels = ("craft.stage=build", f"{LOCAL}=image")
        prune = ("docker", "image", "prune", "-f", "--filter")
        gone = [not images or works("docker", "rmi", "-f", *images)]
        gone += [works(*prune, f"label={label}") for label in labels]
        say("removed all that was made" if all(gone) else f"could not remove all of {images}")


if __name__ == "__main__":
    main()
