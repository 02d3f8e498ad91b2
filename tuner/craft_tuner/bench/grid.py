"""What a bench asks for, and the cells that it falls into.

Owns names of cells and how the settings of each are put together.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from craft_tuner import methods
from craft_tuner.config import fit_config as configuration
from craft_tuner.config import presets as official
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.shots import read_shots
from craft_tuner.data.sources import COOP, DIGITS, title
from craft_tuner.errors import UsageError

AUTO = "auto"
ALL = "all"

AXES = {
    "data": "--data",
    "method": "--methods",
    "shots": "--shots",
    "seed": "--seeds",
    "budget": "--budgets",
    "preset": "--preset",
}
"""Settings that the grid decides, by the option that names them."""


@dataclass(frozen=True)
class Cell:
    """One run of a bench.

    `alone`: its result depends on the dataset alone and stands for all shots, seeds and budgets.
    """

    data: str
    config: FitConfig
    alone: bool = False

    @property
    def title(self) -> str:
        """Short name of the dataset."""
        return title(self.data)

    @property
    def name(self) -> str:
        """Its folder below `runs/`."""
        config = self.config
        if self.alone:
            return f"{self.title}-{config.method}"
        budget = f"-{config.budget}queries" if config.budget else ""
        shots = str(config.shots).replace(" ", "")
        return f"{self.title}-{config.method}-{shots}shots-seed{config.seed}{budget}"


@dataclass(frozen=True)
class Grid:
    """The axes of a bench; every combination is a cell.

    Raises:
        UsageError: an axis is empty, unknown or doubled, or a setting of an axis is set elsewhere.
    """

    data: tuple[str, ...]
    shots: tuple[int | str, ...]
    """As `FitConfig.shots`."""
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    budgets: tuple[int, ...] = ()
    """Queries of each run; empty: the paper's for the shots."""
    preset: str = AUTO
    """`auto` takes that of the dataset that `coop:NAME@ROOT` or `digits` names, if there is one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every cell, as `craft-tuner fit --set` has them; `validation` is for the methods
    that choose by it."""

    def __post_init__(self) -> None:
        for axis in ("data", "shots", "seeds", "methods", "budgets"):
            values = getattr(self, axis)
            doubled = [value for value, count in Counter(values).items() if count > 1]
            if doubled:
                raise UsageError(f"--{axis} names {doubled[0]!r} twice; name it once")
            if not values and axis != "budgets":
                raise UsageError(f"--{axis} is empty; name at least one")
        self._check_titles()
        for method in self.methods:
            if method not in methods.names():
                known = ", ".join(methods.names())
                raise UsageError(f"--methods {method!r} does not exist; there are: {known}")
        for name in self.settings:
            if name in AXES:
                raise UsageError(f"{name} is not a setting of a bench; say it with {AXES[name]}")

    def _check_titles(self) -> None:
        named: dict[str, str] = {}
        for source in self.data:
            other = named.setdefault(title(source), source)
            if other != source:
                raise UsageError(
                    f"--data {other} and --data {source} are both called {title(source)}; give "
                    "one of them a folder or file of another name"
                )

    def cells(self, data: str, method: str) -> Iterator[Cell]:
        """All cells of a method on a dataset, by shots, seed and budget.

        Raises:
            UsageError: a setting is unknown or out of bounds.
        """
        for shots in self.shots:
            for seed in self.seeds:
                for budget in self.budgets or (None,):
                    config = self._config(data, method, shots=shots, seed=seed, budget=budget)
                    yield Cell(data, config)

    def alone(self, data: str, method: str) -> Cell:
        """The one cell of a method whose result depends on the dataset alone."""
        config = self._config(data, method, shots=1, seed=1, budget=None)
        return Cell(data, config, alone=True)

    def _config(
        self, data: str, method: str, *, shots: int | str, seed: int, budget: int | None
    ) -> FitConfig:
        preset = _preset_of(data) if self.preset == AUTO else self.preset
        axes = {"method": method, "shots": shots, "seed": seed, "budget": budget}
        settings = dict(self.settings)
        if "validation" in settings and not methods.get(method).validated:
            del settings["validation"]
        return configuration.build({"preset": preset} if preset else {}, settings, axes)


def _preset_of(data: str) -> str | None:
    """The preset of a dataset of the paper, or of the digits; a folder's name says nothing."""
    is_digits = data == DIGITS and not Path(data).exists()
    return official.preset_of(title(data)) if is_digits or data.startswith(COOP) else None


def parse_methods(text: str) -> tuple[str, ...]:
    """`all`, or names with commas between them."""
    return methods.names() if text.strip() == ALL else parse_names(text)


def parse_names(text: str) -> tuple[str, ...]:
    """Words with commas between them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_shots(text: str) -> tuple[int | str, ...]:
    """What `craft-tuner fit --shots` takes, with commas between.

    Raises:
        UsageError: one of them is no number of shots.
    """
    try:
        return tuple(map(read_shots, parse_names(text)))
    except ValueError as error:
        raise UsageError(f"--shots {text!r}; {error}, with commas between them") from error


def parse_numbers(text: str, *, option: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between them.

    Raises:
        UsageError: one of them is not a number, or is below 1.
    """
    words = parse_names(text)
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise UsageError(f"{option} {text!r}; needed: whole numbers from 1, as in 16,8,4")
    return tuple(int(word) for word in words)
