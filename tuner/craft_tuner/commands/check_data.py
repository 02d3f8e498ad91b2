"""`craft-tuner data check`: the report on a dataset and the estimate of a fit, together.

Owns how both are shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict
from rich.filesize import decimal

from craft_shared.messages import CardLimits
from craft_tuner.activity import doing
from craft_tuner.client.account import choose_model, fetch_key
from craft_tuner.client.texts import TextCheck
from craft_tuner.commands.progress import open_screen
from craft_tuner.commands.session import open_server
from craft_tuner.config import fit_config as configuration
from craft_tuner.config import presets as official
from craft_tuner.config.settings import Settings
from craft_tuner.config.validation import NONE, SPLIT, share
from craft_tuner.data.check import SHOWN, Finding, Report, check, to_read
from craft_tuner.data.listing import Listing, Pair
from craft_tuner.data.sources import benchmark_of, list_source, title
from craft_tuner.data.validation import list_validation, take_share
from craft_tuner.errors import CraftTunerError, DataError, ServerUnreachable
from craft_tuner.training.estimate import CARD, Estimate, estimate
from craft_tuner.training.foresight import Foreseen, Terms


class Look(BaseModel):
    """Everything that is said of a dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    template: str | None
    """The hand-written template of a dataset of the paper."""
    preset: str | None
    """The preset of a dataset of the paper, if the settings do not have it."""
    server: str | None
    """The server whose key the plan is for; None: no key was given, and limits are assumed."""
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
            f"{report.test:,} test, {report.validation:,} validation{self._unused}"
        )
        if report.train:
            yield f"shots: every class has {report.fewest:,} or more (the largest {report.most:,})"
        if self.template:
            yield f"template: {self.template}"
        if self.preset:
            yield f"the paper's settings for this dataset: --preset {self.preset}"
        for finding in report.findings:
            yield f"{'problem' if finding.problem else 'remark'}: {sentence(finding)}"
        if report.bytes is not None:
            yield f"all images: {decimal(report.bytes)}"
        if self.refusal:
            yield f"problem: {self.refusal}"
        if self.needs:
            yield from self._needs(self.needs)
        yield "usable" if self.usable else "not usable as it is"

    @property
    def _unused(self) -> str:
        return "" if self.config.validation == SPLIT else " (unused)"

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
            f"about {traffic.pictures:,} images of {decimal(traffic.picture_bytes)} and prompts of "
            f"{decimal(traffic.prompt_bytes)} to send, logits of {decimal(traffic.logit_bytes)} to "
            f"receive, {traffic.requests:,} calls"
        )
        yield (
            f"planned for the key at {self.server}, as `craft-tuner fit` would plan it now"
            if self.server
            else "planned for a model of the paper's shapes and no limits; with --key or "
            "CRAFT_API_KEY, for that key and its server"
        )


def look(
    source: str,
    layers: Sequence[Mapping[str, Any]],
    *,
    connection: Settings,
    class_names: Path | None,
    opened: bool,
) -> Look:
    """Look at a dataset, and plan the fit that the same settings would begin.

    Args:
        source: what `--data` names.
        layers: settings to plan with, as for a fit.
        connection: with a key, its server is asked what the key may and has; nothing is spent.
            Folders that images may be in beside the dataset's own are in it as well.
        class_names: a file of `label = class name` lines.
        opened: read and decode every picture.

    Raises:
        DataError: there is no dataset, or its form is not understood.
        UsageError: a setting is not usable.
    """
    with doing("listing the dataset"):
        listing = list_source(source, class_names=class_names, outside=connection.allow_outside)
    config = configuration.build(*layers)  # before the long part
    served, needs, refusal = _Served(), None, None
    with ExitStack() as held:
        try:
            served = held.enter_context(_served(connection))
        except CraftTunerError as error:
            refusal = error.message
        limits = served.terms.card.limits if served.terms else CARD.limits
        report = report_on(listing, config, limits, opened=opened)
        try:
            if report.usable and refusal is None:
                with doing("planning"):
                    needs = estimate(config, listing.dataset(), served.terms, check=served.check)
        except CraftTunerError as error:
            refusal = error.message
    benchmark = benchmark_of(source)
    preset = official.preset_of(title(source)) if benchmark else None
    return Look(
        source=source,
        template=benchmark.template if benchmark else None,
        preset=None if config.preset else preset,
        server=served.url,
        report=report,
        config=config,
        needs=needs,
        refusal=refusal,
    )


def report_on(
    listing: Listing,
    config: configuration.FitConfig | None,
    limits: CardLimits | None,
    *,
    opened: bool,
) -> Report:
    """What is found in a listing, while it is shown how far the reading is.

    Args:
        listing: to look at.
        config: says which pictures choices would be made on; None: on none.
        limits: of the server that would take the pictures, if they are known.
        opened: read and decode every picture.
    """
    with open_screen() as screen:
        apart = set_apart(config, listing) if config else ()
        pictures = sum(map(len, to_read(listing, apart).values())) if opened else 0
        on_read = screen.reading(pictures)
        return check(listing, opened=opened, validation=apart, limits=limits, on_read=on_read)


def set_apart(config: configuration.FitConfig, listing: Listing) -> tuple[Pair, ...]:
    """The pictures that choices would be made on; none where they cannot be found."""
    named = config.validation
    if named == NONE:
        return ()
    if named == SPLIT:
        return listing.validation.pairs
    part = share(named)
    if part is None:
        return list_validation(named, listing.outside).pairs
    with suppress(DataError):
        dataset = listing.dataset()
        _, drawn = take_share(dataset, part, seed=config.seed)
        return tuple((dataset.labels[item.label], item.picture) for item in drawn)
    return ()


class _Served(NamedTuple):
    """A server with what its key may and has, and a look at the texts; None: nobody is asked."""

    url: str | None = None
    terms: Terms | None = None
    check: Callable[[Foreseen], None] = lambda _: None


@contextmanager
def _served(connection: Settings) -> Iterator[_Served]:
    """The server of a key, or none."""
    if connection.key is None:
        yield _Served()
        return
    with open_server(connection) as (screen, transport):
        try:
            card = choose_model(transport, connection.model)
            terms = Terms.of(card, fetch_key(transport))
        except ServerUnreachable as error:
            screen.say(f"planned without the key's limits: {error.message}")
            yield _Served()
            return
        texts = TextCheck(transport, card)
        yield _Served(transport.url, terms, lambda foreseen: texts.check(foreseen.wordings()))


def sentence(finding: Finding, *, shown: int = SHOWN) -> str:
    """What was found, how often, and the first names of it."""
    if not finding.names:
        return finding.what
    names = finding.names[:shown]
    more = finding.count - len(names)
    listed = ", ".join(names) + (f" and {more:,} more" if more else "")
    return f"{finding.what} ({finding.count:,}): {listed}"
