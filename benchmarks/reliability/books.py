"""What is wrong with a round: its books, held against what the clients were told.

overshoot     the ledger, or used and held together, above the limit at any moment
double        a purchase charged twice, or charged though nobody was or will be given its reply
lost          a purchase that a client has, but the ledger has not
unexpected    an answer of 500 or above that is not 503 or 504, or has no code of the protocol
drained       a request in work at SIGTERM that was never answered
other         all else that must not be, each in a sentence
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Self

from benchmarks.reliability.client import HOST, TIMEOUT_S, Answer, ask
from benchmarks.reliability.load import Crew
from benchmarks.reliability.stand import HOLD_S, Books, Stand, Stands
from craft_shared.errors import CODES, Code

COUNTED = ("overshoot", "double", "lost", "unexpected", "drained", "other")
GIVEN_BACK_S = HOLD_S + 60.0
EXPECTED = {200, 402, 409, 429, 503, 504}
"""What a client that asks correctly may be told: the reply, no budget left, or to ask again."""


@dataclass
class Findings:
    """What was wrong, by kind, and in words."""

    counts: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)

    def add(self, kind: str, detail: str, count: int = 1) -> None:
        """Note something."""
        self.counts[kind] += count
        self.details.append(f"{kind}: {detail}")


class Sampler:
    """Reads where a key stands, again and again, while others work with it."""

    def __init__(self, books: Books, key_id: str) -> None:
        self._books = books
        self._key_id = key_id
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples = 0
        self.wrong: list[Stands] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.01):
            stands = self._books.stands(self._key_id)
            if stands is not None:
                self.samples += 1
                if _overdrawn(stands) or stands.used != stands.sold:
                    self.wrong.append(stands)


def check(stand: Stand, key_id: str, token: str, *, crew: Crew, sampler: Sampler) -> Findings:
    """All that can be wrong with a round whose clients are done and whose servers run again."""
    findings = Findings()
    for stands in sampler.wrong:
        findings.add("overshoot" if _overdrawn(stands) else "other", f"sampled {stands}")
    for number, name in crew.unended():
        findings.add("other", f"client {number} was never given an end to {name}")
    told = crew.answers()
    _check_answers(told, crew, findings)
    _check_books(stand.books, key_id, told, crew=crew, findings=findings)
    _check_replays(stand, token, told, crew=crew, findings=findings)
    return findings


def _check_answers(told: dict[str, list[Answer]], crew: Crew, findings: Findings) -> None:
    """Statuses, codes, and who was told of a charge."""
    heard = [(name, answer) for name, answers in told.items() for answer in answers]
    heard += [seen for seen in crew.overheard if seen.answer.status]
    for name, answer in heard:
        if answer.status in {0, 200}:
            continue
        known = answer.code in set(Code) and CODES[Code(answer.code)].status == answer.status
        if answer.status >= 500 and not (known and answer.status in EXPECTED):
            findings.add("unexpected", f"{name}: {answer.status} {answer.code}")
        elif answer.status not in EXPECTED or not known:
            findings.add("other", f"{name}: {answer.status} {answer.code}")
    for name, purchase in crew.purchases().items():
        for answers in (told.get(name, []), crew.heard(name)):
            charges = [answer.charged for answer in answers if answer.charged]
            if len(charges) > 1 or any(charge != purchase.queries for charge in charges):
                findings.add("double", f"{name} costs {purchase.queries}, charged {charges}")
    for seen in crew.overheard:
        if seen.answer.status == 0:
            findings.add("other", f"{seen.name}: {seen.answer.code}")


def _check_books(
    books: Books, key_id: str, told: dict[str, list[Answer]], *, crew: Crew, findings: Findings
) -> None:
    """Counters, ledger and clients agree to the query."""
    stands = _settled(books, key_id)
    sold = books.sold(key_id)
    delivered = {
        name for name, answers in told.items() if any(answer.status == 200 for answer in answers)
    }
    lines = Counter(name for name, _ in sold)
    prices = {name: purchase.queries for name, purchase in crew.purchases().items()}
    for name, count in lines.items():
        if count > 1 or name not in delivered:
            findings.add("double", f"{name}: {count} lines, delivered: {name in delivered}")
    for name in delivered - set(lines):
        findings.add("lost", f"{name} was delivered and is not in the ledger")
    for name, queries in sold:
        if prices.get(name) != queries:
            findings.add("double", f"{name} costs {prices.get(name)}, the ledger says {queries}")
    if _overdrawn(stands):
        findings.add("overshoot", f"at the end {stands}")
    if stands.held or stands.used != stands.sold:
        findings.add("other", f"at the end {stands}")
    if open_ones := [name for name, state in books.requests(key_id).items() if state == "held"]:
        findings.add("other", f"still held: {open_ones}")


def _check_replays(
    stand: Stand, token: str, told: dict[str, list[Answer]], *, crew: Crew, findings: Findings
) -> None:
    """Ask for all again: the same logits from either replica, free."""
    connections = [HTTPConnection(HOST, port, timeout=TIMEOUT_S) for port in stand.ports]
    for number, (name, purchase) in enumerate(crew.purchases().items()):
        before = [one for one in told.get(name, []) if one.status == 200]
        if not before:
            continue
        before += [one for one in crew.heard(name) if one.status == 200]
        again = ask(connections[number % len(connections)], token, purchase.plan())
        if (again.status, again.replayed, again.charged) != (200, True, 0):
            findings.add("other", f"{name} asked again: {again}, before {before}")
        elif {one.digest for one in before} != {again.digest}:
            findings.add("other", f"{name}: a replay differs: {again}, before {before}")
    for connection in connections:
        connection.close()


def _settled(books: Books, key_id: str) -> Stands:
    """Where a key stands once its holds were given back, or that they were not in time."""
    end = time.monotonic() + GIVEN_BACK_S
    while (stands := books.stands(key_id)) is None or stands.held:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    if stands is None:
        raise SystemExit("the store does not answer any more")
    return stands


def _overdrawn(stands: Stands) -> bool:
    return stands.used + stands.held > stands.limit or stands.sold > stands.limit
