"""`craft-tuner predict` between its options and its output: price, ask batch by batch, write.

Owns the order in which a refusal can still cost nothing.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.filesize import decimal

from craft_shared.messages import Budgets
from craft_tuner.activity import doing
from craft_tuner.adapter.adapter import Adapter
from craft_tuner.client.client import Client
from craft_tuner.commands.progress import Screen
from craft_tuner.commands.session import client_for, open_server
from craft_tuner.config.settings import Settings
from craft_tuner.data.conversion import conversions
from craft_tuner.data.named import Named, find_pictures
from craft_tuner.errors import INTERRUPTED, BudgetExhausted, DataError
from craft_tuner.inference.evaluate import progress_of
from craft_tuner.inference.predict import Batch, Price, ask, batches, price
from craft_tuner.inference.writer import AnswerWriter, rows
from craft_tuner.plan import amounts, left_of, left_words

_AGAIN = "the same command goes on (with --out, --resume keeps the lines that it has)"


def predict(
    adapter_path: Path,
    paths: Sequence[Path],
    settings: Settings,
    *,
    writer: AnswerWriter,
    batch: int | None = None,
    anyway: bool = False,
) -> None:
    """Classify image files, folders of them, and those that standard input lists.

    Args:
        adapter_path: a run directory or an adapter's file.
        paths: what to classify; `-` stands for standard input.
        settings: of the connection.
        writer: where the answers go.
        batch: images in a batch; None: as many as the server takes.
        anyway: begin even if the key may not pay for all.

    Raises:
        BudgetExhausted: the key cannot pay all of it; nothing is spent.
        DataError: some images could not be used; the others are answered and written.
    """
    adapter = Adapter.load(adapter_path)
    with doing("looking for images"):
        named = find_pictures(paths, sys.stdin.buffer, outside=settings.allow_outside)
    if not named.pictures:
        raise DataError(named.faults[0].sentence if named.faults else "no image is named")
    writer = replace(writer, top=min(writer.top, len(adapter.card.class_names)))
    with open_server(settings) as (screen, transport):
        _say_what_is_found(adapter, named, screen)
        client = client_for(adapter, transport, settings)
        written = writer.written()
        limits = client.card.limits
        asked = [
            each
            for each in batches(named.pictures, adapter, limits, size=batch)
            if not written.issuperset(picture.name for picture in each)
        ]
        _check(client, adapter, asked, screen=screen, anyway=anyway)
        try:
            damaged = _answer(client, adapter, asked, writer=writer, screen=screen)
        except KeyboardInterrupt:
            screen.say(f"interrupted; what was answered is kept, {_AGAIN}")
            raise SystemExit(INTERRUPTED) from None
        except BudgetExhausted:
            screen.say(f"the budget is used up; what was answered is kept, {_AGAIN}")
            raise
        _judge(named, damaged)


def _check(
    client: Client, adapter: Adapter, asked: Sequence[Batch], *, screen: Screen, anyway: bool
) -> None:
    key = client.key()
    cost = price(asked, adapter, key.policy.output)
    screen.say(price_sentence(cost, key.budgets))
    if not anyway:
        cost.check(key.budgets)


def price_sentence(cost: Price, budgets: Budgets) -> str:
    """The price and what the key has left, for people."""
    return (
        f"{cost.images:,} images in {cost.batches:,} image set(s) cost {amounts(cost.cost)}, "
        f"nothing if asked before; to send: about {decimal(cost.bytes)} (what the server lacks); "
        f"the key has {left_words(left_of(budgets))} left"
    )


def _answer(
    client: Client,
    adapter: Adapter,
    asked: Sequence[Batch],
    *,
    writer: AnswerWriter,
    screen: Screen,
) -> int:
    """Ask and write every batch; how many images could not be used."""
    names, damaged, written = adapter.card.class_names, 0, writer.written()
    with writer.open() as file:
        advance = screen.uploading(sum(len(batch) for batch in asked))
        for batch in asked:
            answer = ask(client, adapter, batch, on_uploaded=advance)
            found = rows(answer, names, top=writer.top)
            writer.write(file, [each for each in found if each.name not in written])
            for error in answer.refused:
                screen.say(f"left out: {error.message}")
            damaged += len(answer.refused)
    return damaged


def _say_what_is_found(adapter: Adapter, named: Named, screen: Screen) -> None:
    """What is passed over, converted or left out, and whether the adapter is finished."""
    converted = conversions(named.pictures, lenient=True)
    for remark in filter(None, (progress_of(adapter), *named.remarks, *converted)):
        screen.say(f"remark: {remark}")
    for fault in named.faults:
        screen.say(f"left out: {fault.sentence}")


def _judge(named: Named, damaged: int) -> None:
    bad, total = damaged + len(named.faults), len(named.pictures) + len(named.faults)
    if bad:
        raise DataError(f"{bad:,} of {total:,} could not be used, see above; the others are done")
