"""A bench on a Ray of this machine: the numbers of local processes, and no query twice.

Ray is an extra that the other tests do without: `make ray-test` installs it and runs these.
"""

import os
import signal
from importlib.util import find_spec

import pytest

from tests.support.benches import (
    BBT,
    CRAFT,
    PLANNED,
    ZERO_SHOT,
    build_photos,
    finish,
    numbers,
    spent_by_cell,
    start_bench,
    worker_of,
)
from tests.support.serving import running

METHODS = ("--methods", "bbt,craft,zero_shot")
ALL_PLANNED = {**PLANNED, CRAFT: 6 * 7 + 2}
"""craft: 6 generations of 6 + 1 and two tests."""

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: make ray-test"
)


def adapters(out):
    return {
        name: (out / "runs" / name / "adapter.safetensors").read_bytes() for name in ALL_PLANNED
    }


def test_killing_a_worker_of_ray_loses_no_run_buys_nothing_twice_and_changes_no_number(tmp_path):
    photos = build_photos(tmp_path / "photos")
    for engine in ("local", "ray"):
        folder, out = tmp_path / engine, tmp_path / engine / "out"
        folder.mkdir()
        with running(folder, stub_seconds_per_query=0.02) as server:
            key = server.mint(sum(ALL_PLANNED.values()))
            bench = start_bench(server, key, photos, out, *METHODS, "--engine", engine)
            if engine == "ray":
                for cell in (BBT, CRAFT):
                    os.kill(worker_of(out, cell, bench, generations=2), signal.SIGKILL)
            reported = finish(bench)
            assert "3 done, 0 left" in reported
            assert spent_by_cell(server, out) == ALL_PLANNED
    assert numbers(tmp_path / "ray" / "out") == numbers(tmp_path / "local" / "out")
    assert adapters(tmp_path / "ray" / "out") == adapters(tmp_path / "local" / "out")
    assert ZERO_SHOT in adapters(tmp_path / "ray" / "out")
