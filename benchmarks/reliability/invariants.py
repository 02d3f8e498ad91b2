"""What is wrong with a round: its ledger, compared with the clients' replies.

overshoot     the ledger, or used and held together, above any of the limits at any moment
double        a purchase charged twice, or charged though nobody was or will be given its reply
lost          a purchase that a client has, but the ledger has not
unexpected    an answer of 500 or above that is not 503 or 504, or has no code of the protocol
drained       a request in work at SIGTERM that was never answered
starved       another owner, at a replica that nothing was done to, failed or waited over a second
other         all else that must not be, each in a sentence
"""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Self

from benchmarks.reliability.cluster import HOLD_S, Balance, Cluster, LedgerReader
from benchmarks.reliability.fault_client import HOST, TIMEOUT_S, Answer, ask
from benchmarks.reliability.load import Clients
from craft_shared.errors import CODES, Code

COUNTED = ("overshoot", "double", "lost", "unexpected", "drained", "starved", "other")
GIVEN_BACK_S = HOLD_S + 60.0
Answers = dict[str, list[Answer]]
"""Replies of clients to each purchase, by its name."""

EXPECTED = {200, 402, 409, 429, 503, 504}
"""What a client that asks correctly may hear: the reply, no budget left, or to ask again."""


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
    """Reads a key's balance, again and again, while others work with it."""

    def __init__(self, ledger: LedgerReader, key_id: str) -> None:
        self._ledger = ledger
        self._key_id = key_id
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples = 0
        self.wrong: list[Balance] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.01):
            balance = self._ledger.balance(self._key_id)
            if balance is not None:
                self.samples += 1
                if balance.overdrawn or not balance.agrees:
                    self.wrong.append(balance)


def check(
    cluster: Cluster, key_id: str, token: str, *, clients: Clients, sampler: Sampler
) -> Findings:
    """All that can be wrong with a round whose clients are done and whose servers run again."""
    findings = Findings()
    for balance in sampler.wrong:
        findings.add("overshoot" if balance.overdrawn else "other", f"sampled {balance}")
    for number, name in clients.unended():
        findings.add("other", f"client {number} was never given an end to {name}")
    answered = clients.answers()
    _check_answers(answered, clients, findings)
    _check_ledger(cluster.ledger, key_id, answered, clients=clients, findings=findings)
    _check_replays(cluster, token, answered, clients=clients, findings=findings)
    return findings


def _check_answers(answered: Answers, clients: Clients, findings: Findings) -> None:
    """Statuses, codes, and who heard of a charge."""
    heard = [(name, answer) for name, answers in answered.items() for answer in answers]
    heard += [seen for seen in clients.overheard if seen.answer.status]
    for name, answer in heard:
        if answer.status in {0, 200}:
            continue
        known = answer.code in set(Code) and CODES[Code(answer.code)].status == answer.status
        if answer.status >= 500 and not (known and answer.status in EXPECTED):
            findings.add("unexpected", f"{name}: {answer.status} {answer.code}")
        elif answer.status not in EXPECTED or not known:
            findings.add("other", f"{name}: {answer.status} {answer.code}")
    for name, purchase in clients.purchases().items():
        for answers in (answered.get(name, []), clients.heard(name)):
            charges = [answer.charged for answer in answers if answer.charged]
            if len(charges) > 1 or any(charge != purchase.queries for charge in charges):
                findings.add("double", f"{name} costs {purchase.queries}, charged {charges}")
    for seen in clients.overheard:
        if seen.answer.status == 0:
            findings.add("other", f"{seen.name}: {seen.answer.code}")


def _check_ledger(
    ledger: LedgerReader, key_id: str, answered: Answers, *, clients: Clients, findings: Findings
) -> None:
    """Counters, ledger and clients agree to the query."""
    balance = _settled(ledger, key_id)
    sold = ledger.sold(key_id)
    delivered = {
        name for name, answers in answered.items() if any(one.status == 200 for one in answers)
    }
    lines = Counter(name for name, _ in sold)
    prices = {name: purchase.queries for name, purchase in clients.purchases().items()}
    for name, count in lines.items():
        if count > 1 or name not in delivered:
            findings.add("double", f"{name}: {count} lines, delivered: {name in delivered}")
    for name in delivered - set(lines):
        findings.add("lost", f"{name} was delivered and is not in the ledger")
    for name, queries in sold:
        if prices.get(name) != queries:
            findings.add("double", f"{name} costs {prices.get(name)}, the ledger says {queries}")
    if balance.overdrawn:
        findings.add("overshoot", f"at the end {balance}")
    if balance.held or not balance.agrees:
        findings.add("other", f"at the end {balance}")
    if open_ones := [name for name, state in ledger.requests(key_id).items() if state == "held"]:
        findings.add("other", f"still held: {open_ones}")


def _check_replays(
    cluster: Cluster, token: str, answered: Answers, *, clients: Clients, findings: Findings
) -> None:
    """Ask for all again: the same logits from either replica, free."""
    connections = [HTTPConnection(HOST, port, timeout=TIMEOUT_S) for port in cluster.ports]
    for number, (name, purchase) in enumerate(clients.purchases().items()):
        before = [one for one in answered.get(name, []) if one.status == 200]
        if not before:
            continue
        before += [one for one in clients.heard(name) if one.status == 200]
        again = ask(connections[number % len(connections)], token, purchase.plan())
        if (again.status, again.replayed, again.charged) != (200, True, 0):
            findings.add("other", f"{name} asked again: {again}, before {before}")
        elif {one.digest for one in before} != {again.digest}:
            findings.add("other", f"{name}: a replay differs: {again}, before {before}")
    for connection in connections:
        connection.close()


def _settled(ledger: LedgerReader, key_id: str) -> Balance:
    """A key's balance once its holds were given back, or that they were not in time."""
    end = time.monotonic() + GIVEN_BACK_S
    while (balance := ledger.balance(key_id)) is None or balance.held:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    if balance is None:
        raise SystemExit("the store does not answer any more")
    return balance
