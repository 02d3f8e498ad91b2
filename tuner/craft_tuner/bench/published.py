"""Results that others have published, with their sources: `published.toml`.

Owns the file's form.
"""

import tomllib
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict


class Published(BaseModel):
    """One method as its authors, or those who ran it again, print it; accuracies in per cent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    model: str
    source: str
    """Where the numbers stand."""
    shots: int
    """Of `accuracy`; 0: no image was trained on, the numbers stand for all shots."""
    accuracy: dict[str, float]
    """By dataset, as `--data coop:NAME` names it."""
    averages: dict[int, float]
    """By shots: the average of the paper's 11 datasets."""

    def at(self, data: str, shots: int | str | None) -> float | None:
        """The accuracy on a dataset at so many shots, if it is published."""
        return self.accuracy.get(data) if self.shots in {0, shots} else None


@cache
def published() -> tuple[Published, ...]:
    """All of the file, in its order."""
    file = resources.files("craft_tuner").joinpath("bench", "published.toml")
    rows = tomllib.loads(file.read_text(encoding="utf-8"))["method"]
    return tuple(Published.model_validate(row) for row in rows)
