"""`craft-tuner bench` as people type it, against a server of the protocol."""

import contextlib
import csv
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from craft_shared.errors import Code
from craft_tuner.bench import bench, local, report, worker
from craft_tuner.cli import main as cli
from craft_tuner.commands import fit as commands
from craft_tuner.commands.local_server import LocalServer
from craft_tuner.data.pictures import encode_png
from tests.support.tuner_server import KEY, listening, refuses

pytestmark = pytest.mark.slow

SETTINGS = ("population=4", "views=2", "intrinsic_dim=8", "sigma=0.5", "validation_folds=2")
SMALL = [word for setting in SETTINGS for word in ("--set", setting)]
GRID = ("--shots", "2,1", "--seeds", "1", "--methods", "zero_shot,bbt", "--budgets", "10", *SMALL)
CELLS = ("zoo-zero_shot", "zoo-bbt-2shots-seed1-10queries", "zoo-bbt-1shots-seed1-10queries")
COST = 1 + 2 * 10


class Here:
    """An engine of this process; `before` is called with each job, and may raise."""

    before = staticmethod(lambda _: None)

    def __init__(self, jobs):
        self.jobs = jobs

    def run(self, jobs):
        for job in jobs:
            yield None
            self.before(job)
            yield worker.do(job)


@pytest.fixture
def type_(server, monkeypatch, tmp_path):
    """Run `craft-tuner bench ARGUMENTS`: (exit code, standard output, error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "LocalEngine", Here)
    monkeypatch.setattr(commands, "write_report", lambda run: run.path / "report.html")
    monkeypatch.setattr(report.curves, "render", lambda figure, kind: kind.encode())
    with listening(server) as url:
        monkeypatch.setenv("CRAFT_SERVER_URL", url)
        monkeypatch.setenv("CRAFT_API_KEY", KEY)

        def run(*arguments):
            monkeypatch.setattr(sys, "argv", ["craft-tuner", "bench", *map(str, arguments)])
            out, error = io.StringIO(), io.StringIO()
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(error),
                pytest.raises(SystemExit) as exit_,
            ):
                cli.main()
            return exit_.value.code, out.getvalue(), error.getvalue()

        yield run


@pytest.fixture
def zoo(tmp_path):
    """Three classes, two training images and one test image each."""
    shade = 0
    for split, count in (("train", 2), ("test", 1)):
        for label in ("cat", "sea_lion", "ox"):
            for index in range(count):
                path = tmp_path / "zoo" / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(Image.new("RGB", (9, 7), (shade, 2 * shade, 7))))
                shade += 1
    return tmp_path / "zoo"


def cells():
    with Path("bench/zoo/cells.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_a_bench_says_its_cost_does_all_cells_and_leaves_a_table(type_, zoo, server):
    code, out, error = type_("--data", zoo, *GRID)
    assert code == 0, error
    assert error.startswith("3 cells: 3 new; to do: 3\n")
    assert f"all together: {COST} queries" in error
    assert "the key has 10,000 queries left" in error
    assert f"3 done, 0 left, queries {COST}/{COST}" in error
    assert "a worker had at most" in error
    assert out == Path("bench/zoo/table.md").read_text()
    assert "| zero_shot |" in out
    assert Path("bench/zoo/curves.png").read_bytes() == b"png"
    assert tuple(cells()) == CELLS
    assert server.spent.queries == COST == sum(int(row["queries"]) for row in cells().values())
    assert KEY not in "".join(
        f.read_text("latin1") for f in Path("bench").rglob("*") if f.is_file()
    )


def test_a_cell_is_what_fit_makes(type_, zoo, server, monkeypatch):
    type_("--data", zoo, *GRID)
    cell = Path("bench/zoo/runs") / CELLS[1]
    words = ("--shots", 2, "--seed", 1, "--method", "bbt", "--budget", 10, *SMALL)
    monkeypatch.setattr(
        sys, "argv", ["craft-tuner", "fit", "--data", *map(str, (zoo, "--run", "run", *words))]
    )
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    assert (cell / "adapter.safetensors").read_bytes() == Path(
        "run/adapter.safetensors"
    ).read_bytes()


def test_a_bench_that_is_done_buys_nothing_and_may_be_asked_for_more(type_, zoo, server):
    type_("--data", zoo, *GRID)
    before = server.spent
    code, out, error = type_("--data", zoo, *GRID)
    assert (code, server.spent) == (0, before)
    assert error.startswith("3 cells: 3 done; to do: 0\nall together: 0 queries")
    assert "3 cells: 3 done" in out
    code, _, error = type_("--data", zoo, *GRID, "--seeds", "1,2")
    assert error.startswith("5 cells: 3 done, 2 new; to do: 2\n")
    assert server.spent.queries == COST + 20


def test_a_failed_cell_is_shown_and_tried_again_on_request_only(type_, zoo, server):
    server.mischief = [lambda *_: None, refuses(Code.UNKNOWN_MODEL)]
    code, out, error = type_("--data", zoo, *GRID)
    assert (code, out) == (1, "")
    assert f"craft-tuner: 1 of 3 cells failed ({CELLS[1]}: " in error
    assert "2 done, 1 failed, 0 left" in error
    table = Path("bench/zoo/table.md").read_text()
    assert "| bbt, 10 queries | failed |" in table
    assert f"- {CELLS[1]}: " in table
    assert cells()[CELLS[1]]["state"] == "failed"
    bought = server.spent.queries
    code, _, error = type_("--data", zoo, *GRID)
    assert (code, server.spent.queries) == (1, bought)
    assert error.startswith("3 cells: 2 done, 1 failed; to do: 0\n")
    code, _, error = type_("--data", zoo, *GRID, "--retry-failed")
    assert (code, server.spent.queries) == (0, COST)
    assert cells()[CELLS[1]]["state"] == "done"


def test_a_cell_that_cannot_be_is_a_failed_one(type_, zoo):
    code, _, error = type_("--data", zoo, *GRID, "--shots", "9,1")
    assert code == 1
    assert error.startswith("3 cells: 2 new, 1 failed; to do: 2\n")
    assert "failed: zoo-bbt-9shots-seed1-10queries: class 'cat' has 2 training image(s)" in error
    assert cells()[CELLS[2]]["state"] == "done"


def test_a_cell_without_a_result_is_not_done(type_, zoo, monkeypatch):
    monkeypatch.setattr(worker, "do", lambda job: worker.JobResult(job.name))
    code, _, error = type_("--data", zoo, *GRID, "--methods", "zero_shot")
    assert code == 1
    assert "it left no result in " in error
    assert "is that path shared?" in error


def test_ctrl_c_leaves_a_bench_that_goes_on_and_pays_once(type_, zoo, server, monkeypatch):
    honest, seen = commands.Screen.generation, []

    def second(self, progress):
        honest(self, progress)
        seen.append(progress)
        if len(seen) == 2:
            raise KeyboardInterrupt

    def stopping(run, settings):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(commands.Screen, "generation", second)
            try:
                resume(run, settings)
            except SystemExit:
                raise KeyboardInterrupt from None

    resume = commands.resume
    monkeypatch.setattr(commands, "resume", stopping)
    code, out, error = type_("--data", zoo, *GRID)
    assert (code, out) == (130, "")
    assert "interrupted; what was bought is kept, the same command goes on" in error
    assert [row["state"] for row in cells().values()] == ["done", "new", "new"]
    monkeypatch.setattr(commands, "resume", resume)
    server.queries = COST
    code, _, error = type_("--data", zoo, *GRID)
    assert code == 0, error
    assert "1 done, 2 begun; to do: 2" in error
    assert server.spent.queries == COST


@pytest.mark.parametrize("blind", [False, True])
def test_what_was_bought_is_not_asked_of_the_key_again(type_, zoo, server, blind):
    """The key has just enough for the cells; without the ledger, the runs' own count stands in."""
    type_("--data", zoo, *GRID)
    (Path("bench/zoo/runs") / CELLS[1] / "result.json").unlink()
    server.queries, server.blind = COST, blind
    code, _, error = type_("--data", zoo, *GRID)
    assert code == 0, error
    assert "all together: 0 queries" in error
    assert server.spent.queries == COST


def test_a_sum_that_cannot_be_paid_is_refused_and_nothing_is_made(type_, zoo, server):
    server.queries = COST - 1
    code, _, error = type_("--data", zoo, *GRID)
    assert code == 5
    assert f"the cells need {COST} queries and the key has {COST - 1} left, 1 too few" in error
    assert "--methods: zero_shot 1, bbt 20" in error
    assert not Path("bench").exists()


def test_a_dry_run_says_the_cost_and_makes_nothing(type_, zoo, server):
    code, out, error = type_("--data", zoo, *GRID, "--dry-run")
    assert (code, out, server.spent.queries) == (0, "", 0)
    assert f"all together: {COST} queries" in error
    assert not Path("bench").exists()


def test_a_bench_of_other_settings_is_not_mixed_in(type_, zoo):
    type_("--data", zoo, *GRID)
    code, _, error = type_("--data", zoo, *GRID, "--set", "sigma=0.25")
    assert code == 7
    assert "was started with other settings (sigma 0.5 -> 0.25)" in error


def test_a_run_that_was_made_without_its_plan_gets_it(type_, zoo, server):
    type_("--data", zoo, *GRID)
    cell = Path("bench/zoo/runs") / CELLS[1]
    for name in ("plan.json", "result.json"):
        (cell / name).unlink()
    assert type_("--data", zoo, *GRID)[0] == 0
    assert json.loads((cell / "plan.json").read_text())["method"] == "bbt"
    assert server.spent.queries == COST


# --- a server of its own --------------------------------------------------------------------------


def test_a_server_is_started_with_a_key_that_covers_the_cells(type_, zoo, server, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def started(directory, *, queries):
        asked.append((directory, queries))
        server.queries = max(queries, server.spent.queries)
        with listening(server) as url:
            yield LocalServer(url, KEY, None, lambda limit: setattr(server, "queries", limit))
        asked.append("stopped")

    monkeypatch.setattr(bench, "local_server", started)
    code, _, error = type_("--data", zoo, *GRID, "--start-server", "--out", "out")
    assert code == 0, error
    assert asked == [(Path.cwd() / "out" / "server", 1), "stopped"]
    assert server.queries == server.spent.queries == COST
    code, _, error = type_("--data", zoo, *GRID, "--start-server", "--out", "out", "--shots", "1")
    assert (code, server.queries) == (0, COST)


def test_a_dry_run_starts_no_server(type_, zoo):
    code, _, error = type_("--data", zoo, *GRID, "--start-server", "--dry-run")
    assert code == 0
    assert f"all together: {COST} queries (" in error
    assert "the key has" not in error


def test_a_server_is_started_or_named(type_, zoo):
    code, _, error = type_("--data", zoo, *GRID, "--start-server", "--server", "http://there")
    assert (code, "give one of them" in error) == (2, True)


def test_the_command_in_the_table_is_what_was_asked(type_, zoo):
    _, out, _ = type_("--data", zoo, *GRID, "--preset", "digits", "--methods", "zero_shot")
    assert (
        f"`craft-tuner bench --data {zoo} --shots 2,1 --seeds 1 --methods zero_shot --budgets 10 "
        "--preset digits --set population=4"
    ) in out
