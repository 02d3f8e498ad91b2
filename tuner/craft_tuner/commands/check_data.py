"""`craft-tuner data check`: the report on a dataset and the estimate of a fit, together.

Owns how both are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.filesize import decimal

from craft_tuner.commands.progress import Screen
from craft_tuner.config import fit_config as configuration
from craft_tuner.config import presets as official
from craft_tuner.data.check import Finding, Report, check
from craft_tuner.data.listing import Listing
from craft_tuner.data.sources import benchmark_of, list_source, title
from craft_tuner.errors import BudgetExhausted, DataError
from craft_tuner.training.estimate import Estimate, estimate

PAPER_SHOTS = (16, 8, 4, 2, 1)


class Look(BaseModel):
    """Everything that is said of a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    template: str | None
    """The hand-written template of a dataset of the paper."""
    report: Report
    config: configuration.FitConfig
    needs: Estimate | None
    """None where a fit would be refused, or no picture was opened."""
    refusal: str | None
    """Why a fit with these settings would be refused, if that is all that is wrong."""

    @property
    def usable(self) -> bool:
        """A fit can begin."""
        return self.report.usable and self.refusal is None

    def text(self) -> str:
        """For people: what there is, what is wrong, what a fit needs."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        report = self.report
        yield (
            f"{self.source}: {report.classes:,} classes; images: {report.train:,} train, "
            f"{report.test:,} test, {report.validation:,} validation (unused)"
        )
        if report.train:
            yield f"shots: every class has {report.fewest:,} or more (the largest {report.most:,})"
        if self.template:
            yield f"template: {self.template}"
        yield from (_sentence(finding) for finding in report.findings)
        if report.bytes is not None:
            yield f"all images: {decimal(report.bytes)}"
        if self.refusal:
            yield f"problem: {self.refusal}"
        if self.needs:
            yield from self._needs(self.needs)
        yield "usable" if self.usable else "not usable as it is"

    def _needs(self, needs: Estimate) -> Iterator[str]:
        plan, traffic, settings = needs.plan, needs.traffic, self.config
        preset = f", preset {settings.preset}" if settings.preset else ""
        how = f"{plan.method}, {settings.shots} shots, seed {settings.seed}{preset}"
        yield (
            f"a fit ({how}) needs:"
            if self.report.train
            else "an evaluation among these classes needs:"
        )
        yield plan.table()
        yield (
            f"about, for a model of the paper's shapes: {traffic.pictures:,} images of "
            f"{decimal(traffic.picture_bytes)} and prompts of {decimal(traffic.prompt_bytes)} to "
            f"send, logits of {decimal(traffic.logit_bytes)} to receive, {traffic.requests:,} calls"
        )


def look(
    source: str,
    flags: Mapping[str, Any],
    *,
    class_names: Path | None,
    opened: bool,
    outside: Sequence[Path] = (),
) -> Look:
    """Look at a dataset.

    Args:
        source: what `--data` names.
        flags: settings to plan with, as for a fit.
        class_names: a file of `label = class name` lines.
        opened: read and decode every picture.
        outside: folders that its images may be in beside its own.

    Raises:
        DataError: there is no dataset, or its form is not understood.
        UsageError: a setting is not usable.
    """
    listing = list_source(source, class_names=class_names, outside=outside)
    configuration.build(flags)  # before the long part
    with Screen(Console(stderr=True)) as screen:
        pictures = len(listing.train) + len(listing.test) if opened else 0
        report = check(listing, opened=opened, on_read=screen.reading(pictures))
    benchmark = benchmark_of(source)
    settings = _settings(title(source), flags, report)
    needs, refusal = _needs(settings, listing) if report.usable else (None, None)
    return Look(
        source=source,
        template=benchmark.template if benchmark else None,
        report=report,
        config=settings,
        needs=needs,
        refusal=refusal,
    )


def _settings(name: str, flags: Mapping[str, Any], report: Report) -> configuration.FitConfig:
    """The settings to plan with: the dataset's preset, and as many shots as there are."""
    preset = official.preset_of(name)
    own = {"preset": preset} if preset else {}
    shots = next((count for count in PAPER_SHOTS if count <= report.fewest), 1)
    return configuration.build({"shots": shots, **own}, flags)


def _needs(
    settings: configuration.FitConfig, listing: Listing
) -> tuple[Estimate | None, str | None]:
    try:
        return estimate(settings, listing.dataset()), None
    except (DataError, BudgetExhausted) as error:
        return None, error.message


def _sentence(finding: Finding) -> str:
    kind = "problem" if finding.problem else "remark"
    if not finding.names:
        return f"{kind}: {finding.what}"
    more = finding.count - len(finding.names)
    names = ", ".join(finding.names) + (f" and {more:,} more" if more else "")
    return f"{kind}: {finding.what} ({finding.count:,}): {names}"
