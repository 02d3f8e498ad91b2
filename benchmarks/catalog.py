"""Which benchmarks there are, in groups, and how long each takes with its default options.

Times are those of a quiet machine with two cores. A module's `main` is the benchmark, the first
line of its docstring the summary.
"""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Benchmark(NamedTuple):
    """One measurement.

    Attributes:
        name: what it is called on the command line.
        module: whose `main` it is.
        time: typical, in words.
        options: what `main` is given before the user's options.
        writes_json: does it take `--json FILE`?
        in_group: does it run where its whole group does?
    """

    name: str
    module: str
    time: str
    options: tuple[str, ...] = ()
    writes_json: bool = True
    in_group: bool = True

    @property
    def summary(self) -> str:
        """The first line of its module, read without loading the module."""
        spec = find_spec(self.module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{self.name} has no module {self.module}")
        document = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
        return (document or "").partition("\n")[0].removesuffix(".")


_SPEED, _ACCURACY, _RELIABILITY = (
    f"benchmarks.{group}" for group in ("speed", "accuracy", "reliability")
)
_RN50 = ("--model", "RN50", "--generations", "5", "--repeats", "1")

GROUPS: dict[str, tuple[Benchmark, ...]] = {
    "speed": (
        Benchmark("overhead", f"{_SPEED}.overhead", "30 s"),
        Benchmark("memory", f"{_SPEED}.memory", "20 s"),
        Benchmark("images", f"{_SPEED}.images", "1 min"),
        Benchmark("fit", f"{_SPEED}.fit", "1 min"),
        Benchmark("fit-rn50", f"{_SPEED}.fit", "2 min", _RN50),
        Benchmark("tuners", f"{_SPEED}.tuners", "5 min"),
        Benchmark("replicas", f"{_SPEED}.replicas", "1 min"),
        Benchmark("growth", f"{_SPEED}.text", "1 min", ("--growth",)),
        Benchmark("text", f"{_SPEED}.text", "3 min"),
        Benchmark("imagenet-shape", f"{_SPEED}.imagenet_shape", "6 min", in_group=False),
        Benchmark("gpu", "benchmarks.gpu.check", "8 min", in_group=False),
    ),
    "accuracy": (
        Benchmark("demo-seeds", f"{_ACCURACY}.demo_seeds", "2 min"),
        Benchmark("coop-baseline", f"{_ACCURACY}.coop_baseline", "10 min"),
        Benchmark("disclosure", f"{_ACCURACY}.disclosure", "20 min"),
        Benchmark("leakage", f"{_ACCURACY}.leakage", "2 min"),
        Benchmark("ablation", f"{_ACCURACY}.ablation", "15 min"),
        Benchmark("ablation-heads", f"{_ACCURACY}.ablation_heads", "15 min"),
        Benchmark("names-prompts", f"{_ACCURACY}.names_prompts", "5 min"),
        Benchmark("real-features", f"{_ACCURACY}.real_features", "5 min"),
        Benchmark("domain-shift", f"{_ACCURACY}.domain_shift", "30 min"),
        Benchmark(
            "shots-budgets",
            f"{_ACCURACY}.shots_budgets",
            "over an hour",
            writes_json=False,
            in_group=False,
        ),
    ),
    "reliability": (
        Benchmark("faults", f"{_RELIABILITY}.faults", "8 min"),
        Benchmark("meter-model", f"{_RELIABILITY}.meter_model", "5 min", writes_json=False),
        Benchmark("killed-fit", f"{_RELIABILITY}.killed_fit", "6 min"),
        Benchmark("existence-oracle", f"{_RELIABILITY}.existence_oracle", "2 min"),
        Benchmark("bombs", f"{_RELIABILITY}.attacks", "7 min"),
        Benchmark("soak", f"{_RELIABILITY}.soak", "30 min"),
        Benchmark("fuzz", "scripts.fuzz", "3 min", writes_json=False, in_group=False),
        Benchmark("faults-compose", f"{_RELIABILITY}.faults_compose", "5 min", in_group=False),
    ),
}
"""By group; what does not run with its group takes long or needs more than `make install` gives."""

BENCHMARKS = {each.name: each for group in GROUPS.values() for each in group}
