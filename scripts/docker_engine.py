"""What a test of the images needs of a machine: an engine, Compose, and images to stand on.

Where an image cannot be pulled, one of the same use is made from Debian's packages, under a name of
its own. What is made here has this machine's certificates and is never published.
"""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

LOCAL = "craft-test"
"""Prefix of all that is built here."""

BASE = "python:3.12-slim-bookworm"
PACKAGES = ("docker.io", "docker-compose", "debootstrap")
START_S = 60.0
COMMAND_S = 900.0
"""No command takes longer, unless the machine hangs."""

_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_PIP = "etc/pip.conf"

STAND_INS = {
    "nginx:1.28-alpine": """
        RUN apt-get update -qq && apt-get install -yqq --no-install-recommends nginx-light
    """,
    "postgres:17-alpine": r"""
        RUN apt-get update -qq && apt-get install -yqq --no-install-recommends postgresql \
            && install -d -o postgres /var/lib/postgresql/data \
            && ln -s /usr/lib/postgresql/*/bin /pg
        ENV PATH=/pg:$PATH PGDATA=/var/lib/postgresql/data
        STOPSIGNAL SIGINT
        USER postgres
        RUN printf '%s\n' 'set -e' \
            'if [ ! -s $PGDATA/PG_VERSION ]; then' \
            '  initdb -E UTF8 --locale=C.UTF-8 -A scram-sha-256 -U $POSTGRES_USER \' \
            '    --pwfile=$POSTGRES_PASSWORD_FILE' \
            '  echo "CREATE DATABASE $POSTGRES_DB" | postgres --single postgres' \
            '  echo "host all all all scram-sha-256" >> $PGDATA/pg_hba.conf' \
            'fi' \
            'exec postgres -c listen_addresses="*" -k /tmp' > $PGDATA/../start.sh
        CMD ["sh", "/var/lib/postgresql/start.sh"]
    """,
    "prom/prometheus:v3.5.0": """
        RUN apt-get update -qq && apt-get install -yqq --no-install-recommends prometheus \
            && install -d -o nobody /prometheus
        USER nobody
        ENTRYPOINT ["prometheus"]
    """,
}
"""Image of docker-compose.yml -> what makes Debian do the same."""


class Skipped(Exception):
    """The test cannot run here; the message says why."""


class Interrupted(Exception):
    """The test is to end now; the message says why.

    No SystemExit, which `works` takes for a no.
    """


def run(*command: str | Path, quiet: bool = True, **options: object) -> str:
    """Run a command to its end and give what it printed; its errors end the test.

    Raises:
        SystemExit: it failed, or took too long; the message ends with what it said.
    """
    still: dict[str, object] = {} if "input" in options else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            command,
            capture_output=quiet,
            text=True,
            check=False,
            **{"timeout": COMMAND_S, **still, **options},
        )
    except subprocess.TimeoutExpired as late:
        raise SystemExit(
            f"no end within {late.timeout:.0f} s: {' '.join(map(str, command))}"
        ) from None
    if done.returncode != 0:
        said = f"{done.stdout or ''}{done.stderr or ''}"[-4000:]
        raise SystemExit(f"{' '.join(map(str, command))}\n{said}")
    return str(done.stdout or "").strip()


def works(*command: str | Path) -> bool:
    """Does the command succeed?"""
    try:
        run(*command)
    except (OSError, SystemExit):
        return False
    return True


@contextmanager
def within(seconds: float, otherwise: Exception) -> Iterator[None]:
    """Raise an exception amid the body of the `with` once it took so long; in the main thread."""

    def late(_: int, __: FrameType | None) -> None:
        raise otherwise

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def engine() -> Iterator[None]:
    """A Docker engine: the one that runs, else one that runs for the body of the `with`.

    Raises:
        Skipped: there is none and none can be had.
    """
    if works("docker", "info"):
        yield
        return
    if shutil.which("dockerd") is None:
        _install("no Docker engine runs")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_S
            while not works("docker", "info"):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip().splitlines()[-3:]
                    raise Skipped(f"no Docker engine can start here: {' / '.join(said)}")
                time.sleep(0.5)
            yield
        finally:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def compose_command() -> list[str]:
    """Compose v2 if it is here, else docker-compose."""
    if works("docker", "compose", "version"):
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        _install("no Docker Compose is here")
    return ["docker-compose"]


def _install(why: str) -> None:
    """The packages of Debian, if that is possible."""
    if shutil.which("apt-get") is None or not works("test", "-w", "/usr/bin"):
        raise Skipped(f"{why}, and it cannot be installed: that takes root and apt-get")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    try:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-yqq", *PACKAGES)
    except SystemExit as failure:
        raise Skipped(f"{why}, and apt-get cannot install one: {failure}") from None


# --- images -------------------------------------------------------------------------------------


def base_image() -> str:
    """The image to build on: the pinned one, or a stand-in with Debian's Python.

    Raises:
        Skipped: neither is to be had, or it does not run.
    """
    try:
        name = _base_image()
        run("docker", "run", "--rm", name, "python3", "-c", "import venv")
    except SystemExit as failure:
        raise Skipped(f"no container with Python runs here: {failure}") from None
    return name


def _base_image() -> str:
    if works("docker", "image", "inspect", BASE) or works("docker", "pull", "-q", BASE):
        return BASE
    name = f"{LOCAL}/base"
    if not works("docker", "image", "inspect", name):
        _bootstrap(name)
    return name


def stand_ins(base: str, images: Sequence[str]) -> dict[str, str]:
    """For each image that cannot be pulled and has a stand-in: the name of that.

    Raises:
        Skipped: Debian's packages are not to be had in a container.
    """
    found = {}
    for image in images:
        if works("docker", "image", "inspect", image) or works("docker", "pull", "-q", image):
            continue
        if image in STAND_INS:
            name = f"{LOCAL}/{image.split(':')[0].split('/')[-1]}"
            recipe = f"FROM {base}\n{STAND_INS[image]}"
            try:
                run("docker", "build", "-q", "--force-rm", "-t", name, "-", input=recipe)
            except SystemExit as failure:
                raise Skipped(f"{image} can be neither pulled nor made: {failure}") from None
            found[image] = name
    return found


def _bootstrap(name: str) -> None:
    """A small Debian with Python and this machine's certificates, as an image."""
    if shutil.which("debootstrap") is None:
        _install(f"{BASE} cannot be pulled")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        include = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", include, "bookworm", root)
        shutil.rmtree(root / "var/cache/apt/archives")
        for file in (_CERTIFICATES, _PIP):
            if (Path("/") / file).exists():
                shutil.copyfile(Path("/") / file, root / file)
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as packed:
            run("docker", "import", "-", name, stdin=packed.stdout)


def files_of(image: str) -> Iterator[tuple[tarfile.TarInfo, io.BufferedIOBase | None]]:
    """Every entry of an image's file system, and the content of the regular files."""
    container = run("docker", "create", image, "true")
    try:
        with (
            subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            for entry in archive:
                yield entry, archive.extractfile(entry) if entry.isfile() else None  # type: ignore[misc]
    finally:
        run("docker", "rm", "-v", container)
