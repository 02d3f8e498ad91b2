"""The GPU check's own rules: what a failing section costs, what is written and said when."""

import json
import os
import re
import signal
import sys
import time
import zipfile
from importlib import metadata
from itertools import count
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import card, check, device, exactness, main, models, unpack, wheels
from benchmarks.gpu.record import Record, exit_code
from benchmarks.gpu.runner import (
    CUT,
    DONE,
    FAILED,
    LEFT,
    Scene,
    Section,
    SectionError,
    forked,
    inline,
    run_all,
    sentence_of,
)

COLUMNS = {"number": "number"}
FORK = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def scene(tmp_path):
    return Scene("cpu", small=True, folder=tmp_path)


def section(name, run, **fields):
    return Section(name, f"The {name}", run, COLUMNS, **fields)


def counts(_, say):
    say({"number": 1})
    say({"number": 2})


def fails(_, say):
    say({"number": 7})
    raise torch.OutOfMemoryError("CUDA out of memory.\nAnd a page of advice.")


def reported(_, say):
    raise SectionError("the card is too hot")


def run(sections, scene, **fields):
    seen = []
    options = {"budget_s": 100.0, "launch": inline} | fields
    results = run_all(sections, scene, lambda _, result: seen.append(result), **options)
    assert seen == results
    return results


# --- the runner ---------------------------------------------------------------------------------


@FORK
@pytest.mark.parametrize("launch", [inline, forked])
def test_a_failing_section_keeps_its_rows_and_the_others_go_on(scene, launch):
    bad, good, worded = run(
        [section("bad", fails), section("good", counts), section("worded", reported)],
        scene,
        launch=launch,
    )
    assert (bad.status, bad.why) == (FAILED, "OutOfMemoryError: CUDA out of memory.")
    assert bad.rows == [{"number": 7}]
    assert "fails" in bad.trace
    assert (good.status, good.rows) == (DONE, [{"number": 1}, {"number": 2}])
    assert (worded.status, worded.why) == (FAILED, "the card is too hot")


@FORK
def test_a_section_whose_process_dies_fails_alone_and_says_how(scene):
    def dies(_, say):
        say({"number": 3})
        os._exit(9)

    dead, good = run([section("dead", dies), section("good", counts)], scene, launch=forked)
    assert dead.status == FAILED
    assert dead.why == "its process ended with 9 in the middle"
    assert dead.rows == [{"number": 3}]
    assert good.status == DONE


@FORK
def test_a_section_that_hangs_is_cut_off_with_what_it_had_and_all_it_started(scene):
    def hangs(_, say):
        child = os.fork()
        if not child:
            wait_for_ever()
        say({"number": child})
        wait_for_ever()

    (cut,) = run([section("hangs", hangs, least_s=0, most_s=0.5)], scene, launch=forked)
    assert (cut.status, cut.why) == (CUT, "cut off after 0 s")
    [row] = cut.rows
    until = time.monotonic() + 10
    while alive(row["number"]) and time.monotonic() < until:
        time.sleep(0.001)
    assert not alive(row["number"])


def wait_for_ever():
    while True:
        signal.pause()


def alive(pid):
    """A process that runs; one that is dead and not waited for does not."""
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_does_not_fit_into_the_time_is_left_out_and_smaller_things_are_not(scene):
    clock = count(0, 10).__next__
    first, large, small = run(
        [
            section("first", counts),
            section("large", counts, least_s=70),
            section("small", counts, least_s=5),
        ],
        scene,
        clock=clock,
        budget_s=100.0,
    )
    assert first.status == DONE
    assert (large.status, large.why) == (LEFT, "time: 60 s are left, it needs 70 s")
    assert small.status == DONE


def test_a_section_gets_no_more_time_than_is_left(scene):
    limits = []

    def launch(section, scene, limit_s, say):
        limits.append(limit_s)
        return DONE, None, None

    clock = count(0, 10).__next__
    sections = [section("a", counts, most_s=30), section("b", counts, most_s=90)]
    run(sections, scene, clock=clock, launch=launch, budget_s=100.0)
    assert limits == [30, 60]


def test_without_the_device_its_sections_are_left_out_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scene = Scene("cuda", small=True, folder=tmp_path)
    sections = [card.SECTION, section("needy", counts), section("free", counts, needs_device=False)]
    first, needy, free = run(sections, scene)
    assert first.status == FAILED
    assert re.match(r"no CUDA here: torch .* (built without it|no driver or no card)$", first.why)
    assert (needy.status, needy.why) == (LEFT, first.why)
    assert free.status == DONE
    assert exit_code([first, needy, free], []) == 2


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (KeyError(), "KeyError"),
        (
            SystemExit("it did not start; its log:\n line\n no such port\n"),
            "it did not start; its log: no such port",
        ),
        (SectionError("too hot"), "too hot"),
    ],
)
def test_a_failure_is_one_sentence(error, sentence):
    assert sentence_of(error) == sentence


def test_every_section_is_found_under_its_name():
    assert [main.find(name).name for name in main.SECTIONS] == list(main.SECTIONS)


def test_a_section_whose_packages_are_missing_fails_alone(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks.gpu.speed", None)
    missing, good = run([main.find("speed"), section("good", counts)], scene)
    assert (missing.name, missing.status) == ("speed", FAILED)
    assert missing.why.startswith(
        "benchmarks.gpu.speed cannot be imported here (ModuleNotFoundError: "
    )
    assert good.status == DONE


# --- what is written ----------------------------------------------------------------------------


def test_the_file_is_whole_after_each_section(scene, tmp_path, capsys):
    file = tmp_path / "deep" / "gpu.json"
    record = Record(file, {"device": "cpu"})
    known = []

    def look(_, say):
        known.append([each["name"] for each in json.loads(file.read_text())["sections"]])
        say({"number": 1, "said": "a sentence of its own"})

    record.write()
    sections = [section(name, look) for name in ("one", "two")]
    sections.append(section("bad", fails))
    run_all(sections, scene, record.tell, budget_s=100, launch=inline)
    assert known == [[], ["one"]]
    content = json.loads(file.read_text())
    assert content["about"] == {"device": "cpu"}
    assert [each["status"] for each in content["sections"]] == [DONE, DONE, FAILED]
    assert content["sections"][2]["rows"] == [{"number": 7}]
    record.summary()
    shown = capsys.readouterr().out
    assert "a sentence of its own" in shown
    assert "failed: OutOfMemoryError: CUDA out of memory." in shown
    assert "And a page" not in shown
    assert list(tmp_path.glob("deep/*")) == [file]


def test_exit_codes():
    good, bad = (
        run_all(
            [section("s", work)],
            Scene("cpu", True, Path()),
            lambda *_: None,
            budget_s=99,
            launch=inline,
        )
        for work in (counts, fails)
    )
    assert [exit_code(good, []), exit_code(bad, []), exit_code(good, ["a fault"])] == [0, 1, 2]


# --- memory and exactness -----------------------------------------------------------------------


def test_a_model_too_large_for_the_card_is_named_and_smaller_ones_are_checked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(device, "free_gib", lambda _: 3.0)
    monkeypatch.setattr(exactness, "models_of", lambda _: ("ViT-L-14", "RN50"))
    monkeypatch.setattr(exactness, "load", lambda name, dtype, device: name)
    features = exactness.Features(torch.eye(2), torch.eye(2))
    for tower in ("templates", "soft", "images"):
        monkeypatch.setattr(exactness, tower, lambda *_: features)
    rows = []
    exactness.run(Scene("cpu", small=True, folder=tmp_path), rows.append)
    assert rows[0] == {
        "said": "ViT-L-14 is left out: ViT-L-14 in float32 needs 3.6 GiB on cpu, 3.0 GiB are free"
    }
    assert {row["model"] for row in rows[1:]} == {"RN50"}
    assert {row["exact"] for row in rows[1:]} == {"yes"}


def test_a_tower_that_is_not_exact_fails_the_section(tmp_path, monkeypatch):
    monkeypatch.setattr(exactness, "models_of", lambda _: ("RN50",))
    monkeypatch.setattr(exactness, "load", lambda name, dtype, device: name)
    good, bad = (exactness.Features(torch.eye(2) + off, torch.eye(2)) for off in (0.0, 0.1))
    for tower, found in {"templates": good, "soft": bad, "images": good}.items():
        monkeypatch.setattr(exactness, tower, lambda *_, found=found: found)
    rows = []
    with pytest.raises(SectionError, match="not exact: RN50 in float32, text, soft prompts"):
        exactness.run(Scene("cpu", small=True, folder=tmp_path), rows.append)
    assert [row["exact"] for row in rows[:3]] == ["yes", "NO", "yes"]


def test_the_memory_that_a_model_needs_grows_with_it_and_with_its_precision():
    sizes = [models.gib_of(name, "float32") for name in ("RN50", "ViT-B-32", "ViT-L-14")]
    assert sizes == sorted(sizes)
    assert models.gib_of("RN50", "float16") < models.gib_of("RN50", "float32")


@pytest.mark.parametrize(
    ("dtype", "gaps", "exact"),
    [
        ("float32", (9e-6, 1.0, 0.0), True),
        ("float32", (2e-5, 0.0, 0.0), False),
        ("float16", (1.0, 3e-4, 2e-4), True),
        ("float16", (0.0, 4e-4, 2e-4), False),
        ("bfloat16", (0.0, 9e-5, 0.0), True),
    ],
)
def test_the_bound_of_exactness(dtype, gaps, exact):
    assert exactness.is_exact(dtype, *gaps) is exact


# --- wheels -------------------------------------------------------------------------------------


def a_wheel(folder, name, version="1.0", *, tag="py3-none-any", needs=(), scripts=""):
    """A wheel with one module that says its version."""
    module = name.replace("-", "_")
    file = folder / f"{module}-{version}-{tag}.whl"
    about = f"{module}-{version}.dist-info"
    lines = [f"Requires-Dist: {need}\n" for need in needs]
    with zipfile.ZipFile(file, "w") as content:
        content.writestr(f"{module}.py", f"version = {version!r}\n")
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        content.writestr(f"{about}/METADATA", head + "".join(lines))
        if scripts:
            content.writestr(f"{about}/entry_points.txt", f"[console_scripts]\n{scripts}\n")
    return file


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "wheels"
    made.mkdir()
    return made


def installed(monkeypatch, versions, needs=None):
    """Say what the machine has."""

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(unpack.metadata, "version", version)
    monkeypatch.setattr(unpack.metadata, "requires", (needs or {}).get)


def test_only_what_the_machine_lacks_or_has_too_old_is_unpacked(folder, tmp_path, monkeypatch):
    a_wheel(folder, "lacking")
    a_wheel(folder, "known", "2.0")
    a_wheel(folder, "old", "2.0")
    a_wheel(folder, "asking", needs=["old>=1.5", "known", 'never; python_version < "3"'])
    installed(monkeypatch, {"known": "1.0", "old": "1.0", "packaging": "26"})
    done = unpack.unpack(folder, tmp_path / "into")
    assert done.used == ["asking 1.0", "lacking 1.0", "old 2.0"]
    assert done.faults == []
    assert "2.0" in (done.site / "old.py").read_text()
    assert not (done.site / "known.py").exists()


def test_what_belongs_together_is_kept_or_replaced_together(folder, tmp_path, monkeypatch):
    """As pydantic and its core, of which each version wants exactly one of the other."""
    a_wheel(folder, "front", "1.0", needs=["core==1.0"])
    a_wheel(folder, "core", "1.0")
    have = {"front": "2.0", "core": "2.0", "packaging": "26"}
    installed(monkeypatch, have, {"front": ["core==2.0"]})
    assert unpack.unpack(folder, tmp_path / "kept").used == []
    a_wheel(folder, "asking", needs=["front<2"])
    assert unpack.unpack(folder, tmp_path / "replaced").used == [
        "asking 1.0",
        "core 1.0",
        "front 1.0",
    ]


def test_a_wheel_for_another_platform_is_named_with_the_interpreter(folder, tmp_path):
    a_wheel(folder, "strange", tag="cp27-cp27m-win32")
    a_wheel(folder, "fine-one")
    (folder / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip")
    done = unpack.unpack(folder, tmp_path / "into")
    broken, strange = done.faults
    python = ".".join(map(str, sys.version_info[:3]))
    assert strange.startswith(
        f"strange-1.0-cp27-cp27m-win32.whl does not suit this interpreter, Python {python} for "
    )
    assert broken.startswith("broken-1.0-py3-none-any.whl is no wheel that can be read")
    assert done.used == ["fine-one 1.0"]


def test_what_neither_machine_nor_wheels_have_is_reported(folder, tmp_path, monkeypatch):
    a_wheel(folder, "asking", needs=["nowhere>=1", "numpy>=99"])
    installed(monkeypatch, {"numpy": "2.0", "packaging": "26"})
    done = unpack.unpack(folder, tmp_path / "into")
    assert done.faults == [
        "nowhere is neither here nor among the wheels, and asking needs it",
        "numpy 2.0 is here, and asking needs numpy>=99",
    ]


def test_the_projects_programs_come_from_its_own_wheel(folder, tmp_path):
    a_wheel(folder, "craft-blackbox", scripts="craft-server = some_module:main")
    done = unpack.unpack(folder, tmp_path / "into")
    program = done.programs / "craft-server"
    assert os.access(program, os.X_OK)
    assert program.read_text().splitlines() == [
        f"#!{sys.executable}",
        "import sys",
        "from some_module import main",
        "sys.exit(main())",
    ]


def test_a_wheel_of_other_code_than_the_trees_is_reported(tmp_path):
    site, tree = tmp_path / "site", tmp_path / "tree"
    for folder in (site / "craft_server", tree / "server" / "craft_server"):
        folder.mkdir(parents=True)
        (folder / "app.py").write_text("same")
    assert unpack.stale(site, tree) is None
    assert unpack.stale(site, tmp_path / "no tree") is None
    (tree / "server" / "craft_server" / "app.py").write_text("newer")
    assert unpack.stale(site, tree) == (
        "the project's wheel is not of this tree (craft_server/app.py differs): "
        "make gpu-wheels anew"
    )


def test_a_folder_without_wheels_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"gpu-check: .* holds no wheels; make gpu-wheels"):
        check.prepared(tmp_path, tmp_path / "into")


def test_programs_and_modules_are_found_by_what_the_check_starts(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    a_wheel(folder, "craft-blackbox", scripts="craft-server = some_module:main")
    environment, faults = check.prepared(folder, tmp_path)
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(tmp_path / "site"), str(check.ROOT), "elsewhere"]
    assert environment["PATH"].startswith(str(tmp_path / "programs"))
    assert faults == []


def test_what_travels_is_what_the_project_needs_and_the_machine_lacks():
    names = wheels.needed()
    assert {"open-clip-torch", "fastapi", "uvicorn", "sqlalchemy", "cma", "pydantic"} <= set(names)
    assert not {"torch", "numpy", "triton", "nvidia-cublas", "craft-blackbox", "pytest"} & set(
        names
    )
    assert len(wheels.pinned(names, wheels.ROOT / "constraints.txt")) == len(names)


def test_wheels_that_are_too_large_together_are_refused_in_a_sentence(folder, capsys):
    file = a_wheel(folder, "large")
    assert wheels.report([file]) is None
    assert "large-1.0-py3-none-any.whl" in capsys.readouterr().out
    assert wheels.report([file], most_mib=0.0001) == (
        "gpu-wheels: 0.0 MiB are more than the 0.0001 MiB that may travel"
    )
