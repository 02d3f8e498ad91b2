"""Packages of strangers: whatever one brings is said in a sentence and hides no other method."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from craft_tuner import method_registry, methods
from craft_tuner.config.explain import sentences
from craft_tuner.config.fit_config import build, every_field
from craft_tuner.errors import UsageError
from craft_tuner.training.estimate import method_lines
from tests.support.tuner_commands import build_zoo, typing_to
from tests.support.tuner_server import FakeServer

pytestmark = pytest.mark.slow  # whole fits

GOOD = """
from pydantic import BaseModel, Field
from craft_tuner.adapter.adapter import Adapter, describe
from craft_tuner.config.method_settings import MethodSettings
from craft_tuner.methods import Method
from craft_tuner.plan import Plan, plan_phases
class M(Method):
    name, summary, prompt_kind = NAME, "a summary", "text"
    def plan(self, config, work, budgets=None):
        return plan_phases(config, work, budgets, phases=())
    def fit(self, box, task, *, recorder, on_progress):
        card = describe(task.texts, box.card, method=NAME, config={}, training={})
        adapter = Adapter(card)
        recorder.save_adapter(adapter)
        return adapter
"""


def having(setting: str) -> str:
    """A method with one setting."""
    return f"{GOOD}class S(MethodSettings): {setting}\nM.settings = S\n"


Install = Callable[..., str]
number = itertools.count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with one method here; its name, which is new: names are cached."""

    def put(source: str | None, *, name: str | None = None, point: str = "{module}:M") -> str:
        module = f"stranger_{next(number)}"
        name = name or module
        site = tmp_path / "site"
        about = site / f"{module}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        line = f"{name} = {point.format(module=module)}"
        (about / "entry_points.txt").write_text(f"[{method_registry.GROUP}]\n{line}\n")
        if source is not None:
            (site / f"{module}.py").write_text(source.replace("NAME", repr(name)))
        monkeypatch.syspath_prepend(str(site))
        method_registry.installed.cache_clear()
        return name

    yield put
    monkeypatch.undo()
    method_registry.installed.cache_clear()


BROKEN = {
    "is not there": (None, "cannot be imported: ModuleNotFoundError"),
    "has no such class": ("", "cannot be imported: AttributeError"),
    "is no Python": ("def (", "cannot be imported: SyntaxError"),
    "ends the process": ("raise SystemExit('no licence')", "cannot be imported: SystemExit: no li"),
    "is a function": ("def M(): return 3", "needed: a subclass of Method"),
    "is another class": ("class M: pass", "needed: a subclass of Method"),
    "is abstract": (
        "from craft_tuner.methods import Method\nclass M(Method): name = summary = NAME",
        "has no fit, no plan",
    ),
    "has no name": (GOOD.replace("name, summary,", "_, summary,"), "has no name"),
    "has another name": (GOOD + "M.name = 'bank'", "calls itself 'bank'"),
    "wants arguments": (GOOD + "M.__init__ = lambda self, x: None", "cannot be made"),
    "settings are no class": (GOOD + "M.settings = {'a': 1}", "needed: a subclass of MethodSettin"),
    "settings of pydantic": (
        GOOD + "class S(BaseModel): x: int = 3\nM.settings = S",
        "needed: a subclass of MethodSettings",
    ),
    "a setting without default": (having("must: int"), "the setting must has no default"),
    "a shared setting": (having("lr: str = 'x'"), "a setting is called lr already"),
    "a setting method": (having("method: str = 'x'"), "is called method already"),
    "a setting of the bank": (having("bank_std: int = 3"), "is called bank_std already"),
    "a setting of": (having("of: int = 3"), "a setting is called of already"),
    "a setting n_ctx": (having("n_ctx: int = 3"), "a setting is called n_ctx already"),
    "plans nothing": (GOOD + "M.plan = lambda *a: None", "its plan fails: AttributeError"),
    "plans no phases": (
        GOOD + "M.plan = lambda *a: Plan(method=NAME, budget=1, generations=0, population=0, "
        "phases=())",
        "its plan fails: ValueError: it has no phases",
    ),
    "fails to plan": (GOOD + "def p(*a): raise KeyError(3)\nM.plan = p", "its plan fails: KeyErr"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_method_is_one_line_of_the_list(what: str, install: Install) -> None:
    source, said = BROKEN[what]
    broken, good = install(source), install(having("margin: int = 3"))
    lines = {line.partition(":")[0]: line for line in method_lines()}
    assert [*lines] == [*method_registry.BUILT_IN, *sorted([broken, good])]
    assert said in lines[broken]
    assert "a summary (queries: 0 to fit" in lines[good]
    assert every_field()["margin"].default == 3
    with pytest.raises(UsageError, match="no setting is called qqq"):
        build({"qqq": 1})
    if "plan" not in what:
        with pytest.raises(UsageError) as refused:
            methods.get(build({"method": broken}).method)
        assert said in refused.value.message


def test_a_default_that_is_made_is_said(install: Install) -> None:
    name = install(having("many: list[int] = Field(default_factory=lambda: [1])"))
    assert sentences(build({"method": name, "many": [2]}))[-1].endswith("many [2] instead of [1]")


def test_two_packages_with_one_name_are_both_named(install: Install) -> None:
    name = install(GOOD)
    install(GOOD, name=name)
    with pytest.raises(UsageError, match=r"brought by several packages \(stranger_\d+:M, str"):
        methods.get(name)


def test_a_built_in_method_cannot_be_replaced(install: Install) -> None:
    install(GOOD, name="craft")
    assert type(methods.get("craft")).__module__ == "craft_tuner.methods.craft"
    assert methods.names().count("craft") == 1


SAVES_NOT = """
old = M.fit
class R:
    def save_adapter(self, adapter): pass
M.fit = lambda s, box, task, **k: old(s, box, task, recorder=R(), on_progress=None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["M.fit = lambda *a, **k: None", SAVES_NOT])
def test_a_fit_without_an_adapter_ends_before_the_test_is_bought(
    how: str, install: Install, tmp_path: Path
) -> None:
    name, server, run = install(GOOD + how), FakeServer(), tmp_path / "run"
    with typing_to(server) as tuner:
        code, _, error = tuner(
            *("fit", "--data", build_zoo(tmp_path / "zoo"), "--shots", "2"),
            *("--method", name, "--run", run),
        )
    assert code == 7
    assert f"method '{name}' ended without an adapter" in error
    assert not (run / "purchases.jsonl").exists()


@pytest.mark.slow
def test_a_method_that_plans_nonsense_leaves_no_run(install: Install, tmp_path: Path) -> None:
    name, run = install(GOOD + "M.plan = lambda *a: 3"), tmp_path / "run"
    with typing_to(FakeServer()) as tuner:
        code, _, error = tuner(
            *("fit", "--data", build_zoo(tmp_path / "zoo"), "--shots", "2"),
            *("--method", name, "--run", run),
        )
    assert (code, f"method '{name}' plans 3; needed: a Plan" in error) == (2, True)
    assert not run.exists()
