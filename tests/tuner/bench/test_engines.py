"""Engines: every job has one result, whatever becomes of the process that had it."""

import multiprocessing
import os
import signal
import sys
from types import SimpleNamespace

import pytest

from craft_tuner.activity import Work
from craft_tuner.bench import local
from craft_tuner.bench.local import LocalEngine, serve
from craft_tuner.bench.on_ray import MAX_RETRIES, RayEngine
from craft_tuner.bench.progress import BenchProgress
from craft_tuner.bench.worker import Job, do
from craft_tuner.commands import fit as commands
from craft_tuner.config.settings import Settings
from craft_tuner.errors import ServerUnreachable, UsageError
from tests.support.bench_works import obey

pytestmark = pytest.mark.slow


@pytest.fixture
def jobs(tmp_path):
    def make(*names):
        return [Job(name, tmp_path / name, tmp_path / "log", Settings()) for name in names]

    return make


def reasons(results):
    return {result.name: result.reason for result in results if result is not None}


# --- processes ----------------------------------------------------------------------------------


def test_a_worker_that_dies_fails_its_cell_and_no_other(jobs, tmp_path):
    names = ("a", "dies", "b", "fails", "leaves")
    found = reasons(LocalEngine(2, work=obey).run(jobs(*names)))
    assert found["a"] is found["b"] is None
    assert found["fails"] == "no luck"
    assert "killed by signal 9 (SIGKILL); what was bought is kept" in found["dies"]
    assert "ended with exit code 3" in found["leaves"]
    asked = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(asked) == sorted(names)


def test_closing_an_engine_ends_what_is_at_work(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "TICK_S", 0.05)
    results = LocalEngine(1, work=obey).run(jobs("waits"))
    log = tmp_path / "log"
    assert next(results) is None
    while not (log.exists() and log.read_text().endswith("\n")):
        assert next(results) is None
    results.close()
    pid = int(log.read_text().split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_no_jobs_need_no_workers():
    assert list(LocalEngine(2).run([])) == []


def test_a_worker_serves_until_the_other_end_is_gone(jobs):
    ours, theirs = multiprocessing.Pipe()
    for job in jobs("a", "fails"):
        ours.send(job)
    before = signal.getsignal(signal.SIGINT)
    answers = []

    def last(job):
        result = obey(job)
        answers.append(result)
        if job.name == "fails":
            ours.close()
        return result

    try:
        serve(theirs, last)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        theirs.close()
    assert reasons(answers) == {"a": None, "fails": "no luck"}


def test_a_worker_ends_when_its_starter_does(monkeypatch):
    ended = []
    parent = SimpleNamespace(join=lambda: ended.append("parent"))
    monkeypatch.setattr(local.multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(local.os, "_exit", ended.append)
    local._end_with_parent()
    assert ended == ["parent", 1]


# --- one cell -----------------------------------------------------------------------------------


def test_a_cell_that_is_refused_says_why(jobs, tmp_path):
    (job,) = jobs("nowhere")
    result = do(job)
    assert result.reason == f"{job.run} holds no run (no config.json); give the directory of a fit"
    assert result.peak_bytes > 10**6


def test_an_error_that_nobody_foresaw_is_in_the_log_and_ends_nothing_else(
    jobs, tmp_path, monkeypatch
):
    def broken(run, settings):
        sys.stdout.write("so far, so good\n")
        raise ZeroDivisionError("one by nought")

    monkeypatch.setattr(commands, "resume", broken)
    (job,) = jobs("cell")
    assert do(job).reason == f"ZeroDivisionError: one by nought (traceback in {job.log})"
    assert job.log.read_text().startswith("so far, so good\nTraceback")


# --- Ray, as far as it can be tested without one -------------------------------------------------


class RayError(Exception):
    """As Ray names it."""


class FakeRay:
    """Tasks that run when their result is asked for; notes how it was called."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *, fault=None):
        self.asked, self.fault, self.ticks, self.down, self.cancelled = [], fault, 1, False, []

    def init(self, **options):
        self.asked.append(options)
        if self.fault:
            raise self.fault

    def remote(self, **options):
        self.asked.append(options)
        return lambda work: SimpleNamespace(remote=lambda job: (work, job))

    def wait(self, references, timeout):
        self.ticks -= 1
        return ([], references) if self.ticks == 0 else (references[:1], references[1:])

    def get(self, reference):
        work, job = reference
        if job.name == "dies":
            raise RayError("The worker died unexpectedly.\nmore")
        return work(job)

    def cancel(self, reference, *, force):
        self.cancelled.append(reference[1].name)

    def shutdown(self):
        self.down = True


def test_ray_does_each_cell_and_tells_of_those_it_lost(jobs, monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    results = list(RayEngine(3, work=obey).run(jobs("a", "dies", "fails")))
    assert results[0] is None
    found = reasons(results)
    assert (found["a"], found["fails"]) == (None, "no luck")
    assert found["dies"] == "Ray lost it 4 times or failed: The worker died unexpectedly."
    assert ray.asked[0]["num_cpus"] == 3
    assert ray.asked[1] == {"num_cpus": 1, "max_retries": MAX_RETRIES}
    assert ray.down


def test_ray_is_left_when_the_bench_is_stopped(jobs, monkeypatch):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    results = RayEngine(3, "auto", work=obey).run(jobs("a", "b"))
    next(results)
    results.close()
    assert ray.cancelled == ["a", "b"]
    assert ray.down
    assert ray.asked[0]["address"] == "auto"
    assert "num_cpus" not in ray.asked[0]


def test_a_cluster_that_is_not_there_and_ray_that_is_not_installed_are_said(jobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay(fault=ConnectionError("nobody")))
    with pytest.raises(ServerUnreachable, match="no Ray at there: nobody"):
        list(RayEngine(1, "there").run(jobs("a")))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="needs Ray; install it with"):
        list(RayEngine(1).run(jobs("a")))


# --- what is shown ------------------------------------------------------------------------------


class Clock:
    """Shows what a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


KINDS = {"a": ("dtd", 16), "b": ("dtd", 16), "c": ("dtd", 1), "d": ("dtd", 1)}


def test_a_board_says_how_long_it_takes_once_each_kind_of_cell_was_seen():
    said, clock = [], Clock()
    work = Work("benching", len(KINDS), "cells")
    progress = BenchProgress(said.append, work, KINDS, queries=100, clock=clock)
    clock.now = 10.0
    progress.tick(7)
    assert str(work) == "benching, 0 of 4 cells (0 done, 4 left, queries 7/100)"
    progress.ended("a", "done", spent=20, seconds=10.0)
    clock.now = 12.0
    progress.ended("c", "done", spent=25, seconds=2.0)
    clock.now = 60.0
    progress.ended("b", "failed: bad luck", spent=50, seconds=None)
    clock.now = 66.0
    progress.ended("d", "done", spent=100, seconds=120.0)
    assert said == [
        "a: done; 1 done, 3 left, queries 20/100",
        "c: done; 2 done, 2 left, queries 25/100, about 0:00:12 left",
        "b: failed: bad luck; 2 done, 1 failed, 1 left, queries 50/100, about 0:00:02 left",
        "d: done; 3 done, 1 failed, 0 left, queries 100/100",
    ]
    assert (work.done, work.total) == (4, 4)


def test_cells_that_run_at_a_time_are_done_sooner():
    said, clock = [], Clock()
    kinds = dict.fromkeys("abcdefgh", "alike")
    progress = BenchProgress(said.append, Work("benching", 8), kinds, queries=8, clock=clock)
    clock.now = 30.0
    for name in "abcd":
        progress.ended(name, "done", spent=4, seconds=30.0)
    assert said[-1].endswith("4 left, queries 4/8, about 0:00:30 left")
