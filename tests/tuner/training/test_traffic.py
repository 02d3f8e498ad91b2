"""What a run moves is reported before it begins; the logits to the byte, the images by a sample."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from craft_shared.messages import Counters
from craft_tuner import methods
from craft_tuner.commands.progress import Screen
from craft_tuner.config.fit_config import FitConfig, build
from craft_tuner.data.pictures import SAMPLE, BytesPicture, weigh
from craft_tuner.plan import Phase, Plan, Workload
from craft_tuner.training.traffic import Link, Load, Traffic, foresee
from tests.support.tuner_fakes import a_card

TRAFFIC = Traffic(
    pictures=100,
    picture_bytes=5_000_000,
    requests=1000,
    prompt_bytes=1_000_000,
    logit_bytes=600_000_000,
    dtype="float32",
)


def a_plan():
    def phase(purpose, queries, calls, images):
        asked = {"queries": queries, "calls": calls, "texts": 2 * queries}
        cost = Counters(logit_vectors=queries * images, **asked)
        return Phase(purpose=purpose, what="", cost=cost)

    phases = phase("fitness", 400, 10, 32), phase("head", 10, 10, 32), phase("test", 1, 1, 500)
    return Plan(method="craft", budget=500, generations=10, population=40, phases=phases)


def a_bank_plan():
    work = Workload(2, 8, test_images=6, test_sets=1, bundle=72, set_size=1000)
    return methods.get("bank").plan(build({"method": "bank"}), work)


def reported(traffic, line):
    text = io.StringIO()
    with Screen(Console(file=text, width=200)) as screen:
        screen.traffic(traffic, line)
    return text.getvalue()


@pytest.mark.parametrize(
    ("dtype", "size"), [("auto", 4), ("float32", 4), ("float16", 2), ("int16", 2 + 8 / 2)]
)
def test_logits_are_counted_to_the_byte_and_prompts_by_their_offsets(dtype, size):
    config, card = FitConfig(dtype=dtype), a_card(width=6)
    found = foresee(a_plan(), config, card, class_names=["cat", "dog"], pictures=Load(7, 70))
    vectors = 410 * 32 + 500
    heads = found.logit_bytes - vectors * 2 * size
    assert 0 < heads == 21 * 700
    offsets = 410 * config.n_ctx * 6 * 4
    assert found.prompt_bytes - offsets == 21 * (2 * 6 + 700)
    texts = foresee(
        a_plan(),
        config,
        card,
        class_names=["cat", "dog"],
        pictures=Load(7, 70),
        prompt_kind="text",
    )
    assert texts.prompt_bytes - 410 * 64 == 21 * (2 * 6 + 700)
    assert (found.requests, found.pictures, found.picture_bytes) == (21, 7, 70 + 7 * 340)


def test_names_beside_the_classes_are_counted():
    bank = a_bank_plan()
    found = foresee(bank, FitConfig(), a_card(), class_names=["cat", "dog"], pictures=Load(0, 0))
    assert found.logit_bytes == 4 * bank.total.logits + bank.total.calls * 700


@pytest.mark.parametrize("count", [0, 1, 5, 8, 9, 100])
def test_pictures_of_one_size_are_weighed_exactly_by_a_few(count):
    read = []

    class Read(BytesPicture):
        def read(self):
            read.append(self.name)
            return super().read()

    assert weigh([Read(b"12345", str(number)) for number in range(count)]) == 5 * count
    assert len(read) == min(count, SAMPLE)


def test_the_sample_is_spread_over_all():
    pictures = [BytesPicture(bytes(10 * (number // 50)), "") for number in range(100)]
    assert weigh(pictures) == 500


def test_amounts_and_the_wait_for_the_line_are_reported_before_anything_is_sent():
    text = reported(TRAFFIC, Link(round_trip_s=0.08))
    assert "100 images of about 5.0 MB (those that the server lacks), prompts of 1.0 MB" in text
    assert "logits of 600.0 MB in float32; --dtype float16 halves that" in text
    assert "a round trip takes 80 ms: 1,000 calls wait 0:01:20 for the line" in text


def test_times_are_reported_once_the_rate_is_known():
    text = reported(TRAFFIC, Link(round_trip_s=0.08, bytes_per_s=1e6))
    assert "the line takes 1.0 MB/s: about 0:00:06 to send all, 0:10:00 to receive" in text
    assert "round trip" not in text


@pytest.mark.parametrize("dtype", ["float16", "int16"])
def test_half_the_bytes_are_not_advised_to_who_has_them(dtype):
    traffic = Traffic(1, 1, 1, 1, 9, dtype=dtype, int16_bytes=5)
    assert f"in {dtype}\n" in reported(traffic, Link(0.1))


def test_int16_is_advised_where_the_server_has_it_and_it_is_smaller():
    smaller = replace(TRAFFIC, int16_bytes=310_000_000)
    assert "in float32; --dtype int16 makes that 310.0 MB\n" in reported(smaller, Link(0.1))
    assert "in float32\n" in reported(replace(TRAFFIC, int16_bytes=700_000_000), Link(0.1))


@pytest.mark.parametrize(("chosen", "size"), [("float32", 4), ("int16", 2)])
def test_what_was_chosen_for_a_run_is_what_it_moves(chosen, size):
    names = {"class_names": ["cat", "dog"], "pictures": Load(0, 0)}
    plan, card = a_bank_plan().model_copy(update={"dtype": chosen}), a_card()
    heads = plan.total.calls * 700 + (plan.total.logit_vectors * 8 if chosen == "int16" else 0)
    found = foresee(plan, FitConfig(), card, **names)
    assert (found.dtype, found.logit_bytes - heads) == (chosen, size * plan.total.logits)
    said = foresee(plan, FitConfig(dtype="float16"), card, **names)
    assert said.dtype == "float16"
    rows = card.model_copy(update={"reply_dtypes": ["float32", "int16"]})
    assert (found.int16_bytes, foresee(plan, FitConfig(), rows, **names).int16_bytes) == (
        0,
        plan.total.calls * 700 + plan.total.logit_vectors * 8 + 2 * plan.total.logits,
    )
