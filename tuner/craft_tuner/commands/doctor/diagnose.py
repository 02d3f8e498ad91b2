"""The order of the checks, and which need which."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from craft_shared.messages import ModelCard
from craft_tuner.client.account import fetch_key
from craft_tuner.client.texts import TextCheck
from craft_tuner.client.transport import Patience, Transport
from craft_tuner.commands.doctor import data as of_data
from craft_tuner.commands.doctor import here, key, server
from craft_tuner.commands.doctor.sheet import Sheet
from craft_tuner.commands.progress import Screen
from craft_tuner.commands.session import default_run
from craft_tuner.config import fit_config as configuration
from craft_tuner.config.connection import Connection
from craft_tuner.config.explain import origins, sentences
from craft_tuner.config.fit_config import FitConfig
from craft_tuner.config.settings import Sources, gather, misspellings
from craft_tuner.training import tracking
from craft_tuner.training.estimate import CARD
from craft_tuner.training.foresight import Foreseen, Terms
from craft_tuner.training.traffic import Link

_ONCE = Patience(attempts=1, first_attempts=1)
_NO_KEY = "none"
"""Sent where there is no key, to see whether a server answers."""


@dataclass(frozen=True)
class Asked:
    """What is to be examined: the options of a fit, as they were typed."""

    environ: Mapping[str, str]
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Of the connection, by field of `Settings`; None where one is not given."""
    fit_flags: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    data: str | None = None
    class_names: Path | None = None
    run: Path | None = None
    opened: bool = True
    """Whether every picture is read."""


@dataclass(frozen=True)
class _Offer:
    """What the server said; nothing of what could not be asked."""

    terms: Terms | None = None
    link: Link | None = None
    check_texts: Callable[[Foreseen], None] = lambda _: None


def diagnose(asked: Asked, sheet: Sheet) -> None:
    """Try everything between a user and a fit; spends, uploads and writes nothing."""
    screen = Screen(Console(stderr=True))
    here.check_packages(sheet)
    here.check_threads(sheet, asked.environ)
    for sentence in misspellings(asked.environ):
        sheet.add("warn", "variables", *sentence.split("; ", 1))
    sources = _sources(asked, sheet, file=asked.config)
    config = _config(asked, sources, sheet) if sources else None
    if sources is None and asked.config is not None:
        sources = _sources(asked, Sheet(), file=None)  # what flags and variables say is tried
    offer = _server(sources, sheet, screen) if sources else _Offer()
    if sources is None:
        sheet.skip("address", "connection", "key", needs="usable settings")
    _fit(asked, sources, config, offer, sheet)


def _sources(asked: Asked, sheet: Sheet, *, file: Path | None) -> Sources | None:
    with sheet.trying("settings"):
        return gather(asked.flags, environ=asked.environ, config=file)
    return None


def _config(asked: Asked, sources: Sources, sheet: Sheet) -> FitConfig | None:
    layers = [
        (f"the file {asked.config}", sources.fit),
        ("the environment", sources.fit_environment),
        ("flag", asked.fit_flags),
    ]
    with sheet.trying("settings"):
        config = configuration.build(*(layer for _, layer in layers))
        overridden = sentences(config, origins(layers))[1]
        given = f"{config.method}, {config.shots} shots, seed {config.seed}, {overridden}"
        tracking.known(sources.settings.track)
        sheet.add("ok", "settings", f"settings: {given}")
        return config
    return None


def _server(sources: Sources, sheet: Sheet, screen: Screen) -> _Offer:
    url = server.find_address(sheet, sources)
    passable = url is not None and server.find_way(sheet, url)
    token = server.find_key(sheet, sources)
    if url is None or not passable:
        sheet.skip("connection", needs="an address and a way that can be used")
        if token is not None:
            sheet.skip("key", needs="a connection")
        return _Offer()
    timeout_s = min(sources.settings.timeout_s, server.LONGEST_S)
    connection = Connection(url, token or _NO_KEY, timeout_s)
    with Transport(connection, patience=_ONCE) as transport:
        reached = server.connect(sheet, transport, sources, screen=screen)
        if reached is None:
            sheet.skip("ready", "clock", needs="a connection")
            if token is not None:
                sheet.skip("key", needs="a connection")
            return _Offer()
        server.check_clock(sheet, transport)
        server.check_ready(sheet, transport, screen=screen)
        if token is None:
            return _Offer()
        return _key(sources, transport, reached, sheet, screen, connection=connection)


def _key(
    sources: Sources,
    transport: Transport,
    reached: server.Reached,
    sheet: Sheet,
    screen: Screen,
    *,
    connection: Connection,
) -> _Offer:
    origin = sources.origins["key"]
    with sheet.trying("key"):
        if reached.denied is not None:
            sheet.refuse("key", f"{reached.denied.message}; it was given with {origin}")
            return _Offer()
        with server.waiting(screen, "what the server says of the key"):
            info = fetch_key(transport)
        ahead_s = transport.clock_ahead_s or 0.0
        key.check_key_info(sheet, info, origin=origin, ahead_s=ahead_s)
        card, link = reached.card, None
        if card is None:
            return _Offer()
        if key.IMAGES_WRITE in info.scopes:
            link = key.measure_line(sheet, transport, card.limits, screen=screen)
        return _Offer(Terms.of(card, info), link, partial(_check_texts, connection, card))
    return _Offer()


def _check_texts(connection: Connection, card: ModelCard, foreseen: Foreseen) -> None:
    with Transport(connection, patience=_ONCE) as transport:
        TextCheck(transport, card).check(foreseen.wordings())


def _fit(
    asked: Asked,
    sources: Sources | None,
    config: FitConfig | None,
    offer: _Offer,
    sheet: Sheet,
) -> None:
    dataset = None
    if asked.data is None:
        sheet.skip("data", "plan", needs="--data")
    else:
        dataset = of_data.check_data(
            sheet,
            asked.data,
            config,
            class_names=asked.class_names,
            outside=sources.settings.allow_outside if sources else (),
            opened=asked.opened,
            limits=offer.terms.card.limits if offer.terms else CARD.limits,
        )
        if dataset is None or config is None:
            sheet.skip("plan", needs="usable data" if config else "usable settings")
    where = asked.run
    if where is None and asked.data is not None and config is not None:
        where = default_run(asked.data, config)
    if where is not None and config is not None:
        here.check_place(sheet, where, config)
    if dataset is None or config is None:
        return
    planned = of_data.check_plan(
        sheet, config, dataset, offer.terms, link=offer.link, check_texts=offer.check_texts
    )
    if planned is not None and where is not None:
        here.check_disk(sheet, where, planned.plan)
