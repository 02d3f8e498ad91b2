"""A run directory belongs to one configuration, one task, one process at a time."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from craft_tuner import files as durable
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.blackbox import Images, Texts
from craft_tuner.config.fit_config import build
from craft_tuner.errors import RunError, WrongModel
from craft_tuner.plan import Workload, plan_generations
from craft_tuner.runs.run import Run
from tests.support.tuner_fakes import SmoothBox, a_card, a_task


def test_a_resumed_run_has_the_id_settings_and_setup_it_was_created_with(tmp_path: Path) -> None:
    config = build({"preset": "dtd", "seed": 3})
    with Run.create(tmp_path / "a" / "b", config, setup={"server": "http://x"}) as run:
        created = run.id
    with Run.resume(tmp_path / "a" / "b") as run:
        assert (run.id, run.config) == (created, config)
        assert run.identity.setup == {"server": "http://x"}


def test_ids_are_random(tmp_path: Path) -> None:
    with Run.create(tmp_path / "a", build()) as one, Run.create(tmp_path / "b", build()) as two:
        assert one.id != two.id


def test_create_refuses_a_used_directory(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", build()).close()
    with pytest.raises(RunError, match="already holds a run; go on with --resume"):
        Run.create(tmp_path / "run", build())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RunError, match=re.escape("holds other files (thesis.tex)")):
        Run.create(tmp_path / "other", build())


def test_create_goes_on_where_a_kill_left_only_the_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "config.json.tmp").touch()
    Run.create(tmp_path, build()).close()


def test_resume_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no run \(no config.json\)"):
        Run.resume(tmp_path)
    (tmp_path / "config.json").write_text('{"run_id": "x"')
    with pytest.raises(RunError, match="is damaged"):
        Run.resume(tmp_path)


def test_resume_refuses_other_settings_and_names_them(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", build()).close()
    Run.resume(tmp_path / "run", config=build()).close()
    with pytest.raises(RunError, match=re.escape("(seed 1 -> 2, sigma 1.0 -> 0.5); resume")):
        Run.resume(tmp_path / "run", config=build({"seed": 2, "sigma": 0.5}))
    Run.resume(tmp_path / "run").close()


HOLD = """
import sys
from pathlib import Path
from craft_tuner.runs.run import Run
with Run.resume(Path(sys.argv[1])):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_only_one_process_works_on_a_run(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", build()).close()
    command = [sys.executable, "-c", HOLD, tmp_path / "run"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"taken\n"
        with pytest.raises(RunError, match=f"in use by process {other.pid}"):
            Run.resume(tmp_path / "run")
        with pytest.raises(RunError, match="in use"):
            Run.create(tmp_path / "run", build())
        other.stdin.close()
    Run.resume(tmp_path / "run").close()


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", build()).close()
    assert (tmp_path / "run" / "lock").read_text().strip().isdigit()
    Run.resume(tmp_path / "run").close()


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", build())
    run.close()
    run.close()


TASK = a_task(SmoothBox())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(TASK, labels=TASK.labels[::-1].copy()), "other labels"),
        (replace(TASK, texts=Texts(("a", "b", "c"))), "other classes"),
        (replace(TASK, texts=replace(TASK.texts, suffix="!")), "other words"),
        (replace(TASK, shots=Images(("else",), 12)), "other images"),
        (replace(TASK, views=TASK.views[1:]), "other views"),
    ],
)
def test_a_run_is_bound_to_its_task(changed, said: str, tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", build()) as run:
        run.bind(TASK, a_card())
        run.bind(TASK, a_card())
        run.bind(replace(TASK, views=TASK.views[:1]), a_card())  # views that no plan reads
        with pytest.raises(RunError, match=said):
            run.bind(changed, a_card())


def test_a_run_is_bound_to_its_model(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", build()) as run:
        run.bind(TASK, a_card())
        with pytest.raises(WrongModel, match="was started on smooth::fake"):
            run.bind(TASK, a_card(digest="e" * 64))


def test_a_run_that_asks_nothing_about_its_shots_goes_on_without_them(tmp_path: Path) -> None:
    """Zero-shot runs of before 2026-11-28 uploaded their shots and were bound to them."""
    unasked = replace(TASK, shots=Images((), 0), views=(), labels=TASK.labels[:0])
    with Run.create(tmp_path / "run", build()) as run:
        run.bind(TASK, a_card())
        run.bind(unasked, a_card())
        other = replace(unasked, texts=Texts(("other", "names")))
        with pytest.raises(RunError, match="other classes"):
            run.bind(other, a_card())


def test_a_run_is_bound_to_what_its_key_is_reported(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", build()) as run:
        run.bind(TASK, a_card())
        with pytest.raises(RunError, match="other output"):
            run.bind(TASK, a_card().model_copy(update={"output": "label"}))
        file = run.path / "task.json"
        known = json.loads(file.read_text())
        del known["output"]  # as older versions wrote it
        file.write_text(json.dumps(known))
        run.bind(TASK, a_card().model_copy(update={"output": "label"}))


def test_the_plan_is_kept(tmp_path: Path) -> None:
    plan = plan_generations(build(), Workload(3, 12), head_queries=1)
    with Run.create(tmp_path / "run", build()) as run:
        assert run.saved_plan() is None
        with pytest.raises(RunError, match=r"has no plan\.json"):
            _ = run.plan
        run.save_plan(plan)
        assert run.plan == run.saved_plan() == plan


def test_adapter_and_result_are_files_for_people_too(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", build()) as run:
        adapter = Adapter.identity(TASK.texts, a_card(), method="zero_shot", config={})
        assert run.result() is None
        run.save_adapter(adapter)
        run.save_result({"accuracy": 0.5})
        assert run.result() == {"accuracy": 0.5}
        card = json.loads((run.path / "adapter.json").read_text())
        assert card["class_names"] == [*TASK.texts.class_names]
        assert Adapter.load(run.path).card == adapter.card


def test_replacing_a_file_leaves_the_old_one_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.replace(tmp_path / "f", b"old")

    def dies(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        durable.replace(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"


def test_keep_lines_drops_what_follows_and_what_is_torn(tmp_path: Path) -> None:
    file = tmp_path / "f"
    assert durable.keep_lines(file, 3) == []
    for line in ("a", "b", "c"):
        durable.append(file, line)
    file.write_bytes(file.read_bytes() + b"torn")
    assert durable.keep_lines(file, 9) == ["a", "b", "c"]
    assert file.read_bytes() == b"a\nb\nc\n"
    assert durable.keep_lines(file, 1) == ["a"]
    assert file.read_bytes() == b"a\n"


def test_image_sets_and_labels_are_written_readably(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", build()) as run:
        run.bind(TASK, a_card())
        found = json.loads((run.path / "task.json").read_text())
    assert found["labels"] == np.repeat([0, 1, 2], 4).tolist()
    assert found["images"] == {"sets": ["shots"], "count": 12}
