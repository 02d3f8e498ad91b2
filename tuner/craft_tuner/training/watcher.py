"""Who watches a fit: the port `Watcher`, and one that shows nothing.

The library prints nothing; `craft_tuner.commands.progress.Screen` is the watcher of the commands.
"""

from collections.abc import Callable
from typing import Protocol

from craft_shared.messages import Budgets, Counters
from craft_tuner.methods import Progress
from craft_tuner.plan import Plan
from craft_tuner.training.traffic import Link, Traffic


class Watcher(Protocol):
    """What is shown of a fit, as it goes on."""

    def say(self, sentence: str) -> None:
        """Something that stays to be read."""
        ...

    def plan(self, plan: Plan, budgets: Budgets, ahead: Counters) -> None:
        """The plan is made; what it costs from here on, `ahead`, is not spent yet."""
        ...

    def traffic(self, traffic: Traffic, line: Link) -> None:
        """What will go over the line; once more when the line's rate is known."""
        ...

    def uploading(self, total: int) -> Callable[[int], None]:
        """Pictures are about to be uploaded; call the result with how many more are done."""
        ...

    def generation(self, progress: Progress) -> None:
        """A generation is committed."""
        ...

    def testing(self, images: int) -> None:
        """The adapter is saved, the final test begins."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, sentence: str) -> None:
        """Nothing."""

    def plan(self, plan: Plan, budgets: Budgets, ahead: Counters) -> None:
        """Nothing."""

    def traffic(self, traffic: Traffic, line: Link) -> None:
        """Nothing."""

    def uploading(self, total: int) -> Callable[[int], None]:
        """Nothing."""
        return lambda _: None

    def generation(self, progress: Progress) -> None:
        """Nothing."""

    def testing(self, images: int) -> None:
        """Nothing."""


SILENT = Silent()
