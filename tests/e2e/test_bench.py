"""A real bench: worker processes, a real server, and a bill that is exact under kills."""

import os
import signal

import pytest

from tests.support.benches import (
    BBT,
    PLANNED,
    ZERO_SHOT,
    build_photos,
    end_of,
    finish,
    numbers,
    spent_by_cell,
    start_bench,
    worker_of,
)
from tests.support.serving import running


@pytest.mark.long
def test_killed_workers_and_killed_benches_cost_no_other_cell_and_no_query(tmp_path):
    """The key covers the plans and not a query more."""
    photos, out = build_photos(tmp_path / "photos"), tmp_path / "out"
    with running(tmp_path, stub_seconds_per_query=0.02) as server:
        key = server.mint(sum(PLANNED.values()))
        bench = start_bench(server, key, photos, out)
        os.kill(worker_of(out, BBT, bench, generations=1), signal.SIGKILL)
        reported = finish(bench, 1)
        assert f"{BBT}: failed: its worker process was killed by signal 9 (SIGKILL)" in reported
        assert f"1 of 2 cells failed ({BBT}" in reported
        assert [row["state"] for row in numbers(out)] == ["failed", "done"]
        assert spent_by_cell(server, out)[ZERO_SHOT] == 1

        bench = start_bench(server, key, photos, out, "--retry-failed")
        worker = worker_of(out, BBT, bench, generations=3)
        bench.kill()
        reported = finish(bench, -signal.SIGKILL)
        assert "2 cells: 1 failed, 1 done; to do: 1" in reported
        end_of(worker)

        reported = finish(start_bench(server, key, photos, out))
        assert "2 cells: 1 begun, 1 done; to do: 1" in reported
        assert "| bbt, 44 queries |" in reported
        assert spent_by_cell(server, out) == PLANNED
    assert [row["queries"] for row in numbers(out)] == ["44", "1"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
