"""The client asks each question once, checks the replies, and knows what it spent."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from craft_shared import wire
from craft_shared.errors import Code
from craft_shared.messages import Counters
from craft_tuner.blackbox import Images, Texts
from craft_tuner.client.account import choose_model, fetch_usage
from craft_tuner.client.client import Client
from craft_tuner.client.purchases import Purchases
from craft_tuner.data.pictures import BytesPicture
from craft_tuner.errors import (
    AccessDenied,
    BudgetExhausted,
    RunError,
    ServerUnreachable,
    UsageError,
    WrongModel,
)
from tests.support.tuner_server import (
    N_CTX,
    WIDTH,
    Answer,
    FakeServer,
    an_image,
    changes,
    logits_of,
    model_card,
    refuses,
    says,
    transport_to,
)

TEXTS = Texts(("cat", "dog", "sea lion"))
BEFORE_RUNS = [
    "c9d3cdd12cfbd7dbbd89cf0b95925c84bdf7fa518adcd0807fec06ad9f56b55a",
    "d8eb9f3e416c9226cda13b23c18c378403e353f0a02a3dce6080940f186bc672",
]
"""What version 0.1.0 of this program named the same two purchases."""


def some_offsets(prompts: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(prompts, N_CTX, WIDTH)).astype(np.float32)


def pictures(count: int) -> list[BytesPicture]:
    return [BytesPicture(an_image(str(index)), f"{index}.png") for index in range(count)]


@dataclass
class Scene:
    """A server and a client of it with `count` images uploaded."""

    server: FakeServer
    client: Client
    images: Images

    def score(self, offsets: np.ndarray, *, step: str = "fitness/1") -> np.ndarray:
        return self.client.score(TEXTS, offsets, self.images, purpose="fitness", step=step)

    def bodies(self) -> list[bytes]:
        return [asked.body for asked in self.server.calls("/v1/logits")]


def a_scene(
    *,
    count: int = 7,
    server: FakeServer | None = None,
    purchases: Purchases | None = None,
    run_id: str = "run",
    dtype: str = "float32",
    **limits: int,
) -> Scene:
    server = server or FakeServer(cards=[model_card(**limits)])
    transport = transport_to(server)
    card = choose_model(transport)
    client = Client(transport, card, run_id=run_id, purchases=purchases, dtype=dtype)
    done = client.upload(pictures(count), name="shots", classes=3)
    return Scene(server, client, done.images)


def test_a_population_is_one_request_and_gives_the_servers_logits():
    scene = a_scene()
    offsets = some_offsets()
    logits = scene.score(offsets)
    (body,) = scene.bodies()
    request, sent = wire.decode_request(body)
    np.testing.assert_array_equal(sent, offsets)
    expected = logits_of(request, offsets, scene.server.sets[scene.images.sets[0]])
    np.testing.assert_array_equal(logits, expected)
    assert logits.dtype == np.float32
    assert logits.shape == (5, 7, 3)


def test_the_request_says_model_words_and_what_it_is_for():
    scene = a_scene()
    scene.score(some_offsets())
    request, _ = wire.decode_request(scene.bodies()[0])
    assert request.model == "fake::1"
    assert request.class_names == ["cat", "dog", "sea lion"]
    assert (request.prompts.context, request.prompts.suffix) == ("a photo of a", ".")
    assert (request.tag, request.run) == ("fitness", "run")


def test_the_name_of_a_purchase_does_not_depend_on_the_run_label():
    """The keys of a run that began before requests had a run: it resumes and pays nothing again."""
    scene = a_scene()
    ids = [hashlib.sha256(f"image {index}".encode()).hexdigest() for index in range(7)]
    name = f"set_{hashlib.sha256(''.join(ids).encode()).hexdigest()[:32]}"
    scene.server.sets[name], scene.images = ids, Images((name,), 7)
    scene.score(np.zeros((1, N_CTX, WIDTH), np.float32))
    scene.client.score_templates(TEXTS, ["a {}."], scene.images, purpose="test", step="test")
    keys = [asked.headers["idempotency-key"] for asked in scene.server.calls("/v1/logits")]
    assert keys == BEFORE_RUNS


@pytest.mark.parametrize(
    "limits",
    [
        {"prompts": 2},
        {"texts": 2 * 3},
        {"logits": 2 * 7 * 3},
        {"images": 3},
        {"images": 2, "prompts": 3},
        {"body_bytes": 2500},
    ],
)
def test_batches_within_the_cards_limits_give_the_same_logits(limits):
    whole, cut = a_scene(), a_scene(**limits)
    offsets = some_offsets()
    np.testing.assert_array_equal(cut.score(offsets), whole.score(offsets))


@pytest.mark.parametrize(
    ("limits", "requests"),
    [
        ({"prompts": 2}, 3),
        ({"texts": 2 * 3}, 3),
        ({"logits": 2 * 7 * 3}, 3),
        ({"images": 3}, 3),
        ({"body_bytes": 2500}, 2),
    ],
)
def test_a_question_is_cut_into_as_few_requests_as_the_limits_allow(limits, requests):
    scene = a_scene(**limits)
    scene.score(some_offsets())
    assert len(scene.bodies()) == requests


def test_every_image_set_costs_each_prompt_once():
    scene = a_scene(images=3)
    scene.score(some_offsets())
    assert scene.server.spent.queries == 5 * 3
    assert scene.server.spent.logit_vectors == 5 * 7


def test_templates_are_asked_as_text():
    scene = a_scene(prompts=1)
    templates = ["a photo of a {}.", "a sketch of a {}."]
    logits = scene.client.score_templates(
        TEXTS, templates, scene.images, purpose="zero-shot", step="zero-shot"
    )
    assert logits.shape == (2, 7, 3)
    requests = [wire.decode_request(body)[0] for body in scene.bodies()]
    assert [request.prompts.templates for request in requests] == [[one] for one in templates]


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2e-2), ("int16", 5e-4)])
def test_half_the_bytes_on_the_wire_come_back_as_float32(dtype, error):
    scene = a_scene(dtype=dtype)
    logits = scene.score(some_offsets())
    assert logits.dtype == np.float32
    exact = a_scene().score(some_offsets())
    np.testing.assert_allclose(logits, exact, rtol=0, atol=error)
    assert not np.array_equal(logits, exact)
    np.testing.assert_array_equal(scene.score(some_offsets()), logits)
    assert scene.server.spent.queries == 5


def test_labels_in_int16_are_labels():
    scenes = []
    for dtype in ("float32", "int16"):
        card = model_card().model_copy(update={"output": "label"})
        scenes.append(a_scene(server=FakeServer(cards=[card]), dtype=dtype))
        scenes[-1].server.mischief = [changes(logits=hide_all_but_the_best)]
    np.testing.assert_array_equal(*(scene.score(some_offsets()) for scene in scenes))


def test_a_dataset_of_more_classes_than_the_server_takes_is_refused_unasked():
    scene = a_scene(classes=2)
    with pytest.raises(UsageError, match="3 classes, the server takes 2"):
        scene.score(some_offsets())
    assert not scene.bodies()


def test_a_question_that_does_not_fit_one_prompt_is_refused_unasked():
    scene = a_scene()
    tight = model_card(logits=7)
    client = Client(transport_to(scene.server), tight, run_id="run")
    with pytest.raises(UsageError, match="one prompt on 7 images of 3 classes"):
        client.score(TEXTS, some_offsets(), scene.images, purpose="head", step="head/1")


def test_sizes_of_sets_from_an_earlier_process_are_looked_up():
    scene = a_scene(images=3)
    other = Client(transport_to(scene.server), scene.client.card, run_id="run")
    logits = other.score(TEXTS, some_offsets(), scene.images, purpose="fitness", step="fitness/1")
    np.testing.assert_array_equal(logits, scene.score(some_offsets()))


def test_image_sets_that_changed_size_are_noticed():
    scene = a_scene()
    wrong = Images(scene.images.sets, 8)
    with pytest.raises(ServerUnreachable, match="has 7 images in 1 image sets that should have 8"):
        scene.client.score(TEXTS, some_offsets(), wrong, purpose="fitness", step="fitness/1")


# --- what is bought ---------------------------------------------------------------------------


def test_the_same_run_step_and_content_is_the_same_purchase():
    server = FakeServer()
    first = a_scene(server=server).score(some_offsets())
    second = a_scene(server=server).score(some_offsets())
    np.testing.assert_array_equal(first, second)
    assert server.spent.queries == 5


@pytest.mark.parametrize(
    "other", [{"run_id": "other"}, {"step": "fitness/2"}, {"offsets": some_offsets(seed=1)}]
)
def test_another_run_step_or_content_is_another_purchase(other):
    server = FakeServer()
    a_scene(server=server).score(some_offsets())
    scene = a_scene(server=server, run_id=other.get("run_id", "run"))
    scene.score(other.get("offsets", some_offsets()), step=other.get("step", "fitness/1"))
    assert server.spent.queries == 10


def test_batches_of_one_request_are_different_purchases():
    scene = a_scene(prompts=2)
    scene.score(np.zeros((5, N_CTX, WIDTH), np.float32))
    assert len(scene.server.bought) == 3


def test_belief_equals_the_servers_ledger_in_all_four_counters():
    scene = a_scene(images=3, prompts=4)
    scene.score(some_offsets())
    scene.score(some_offsets(seed=1), step="fitness/2")
    assert scene.client.purchases.total == scene.server.spent
    assert scene.client.budgets().queries.used == scene.server.spent.queries


def test_a_replay_counts_once_also_after_a_restart(tmp_path):
    server, file = FakeServer(), tmp_path / "purchases.jsonl"
    a_scene(server=server, purchases=Purchases(file)).score(some_offsets())
    resumed = a_scene(server=server, purchases=Purchases(file))
    resumed.score(some_offsets())
    resumed.score(some_offsets(seed=1), step="head/1")
    assert resumed.client.purchases.total == server.spent == Purchases(file).total


def test_a_purchase_that_was_paid_but_not_written_is_written_when_replayed(tmp_path):
    server, file = FakeServer(), tmp_path / "purchases.jsonl"
    a_scene(server=server).score(some_offsets())
    resumed = a_scene(server=server, purchases=Purchases(file))
    resumed.score(some_offsets())
    assert Purchases(file).total == server.spent


def test_a_torn_last_line_is_dropped_and_a_damaged_one_named(tmp_path):
    file = tmp_path / "purchases.jsonl"
    scene = a_scene(purchases=Purchases(file))
    scene.score(some_offsets())
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:20])
    assert Purchases(file).total == scene.server.spent
    assert file.read_bytes() == whole
    file.write_bytes(b"{}\n")
    with pytest.raises(RunError, match=r"purchases\.jsonl is damaged"):
        Purchases(file)


def test_purchases_are_distinguished_by_purpose():
    scene = a_scene()
    scene.score(some_offsets())
    scene.client.score(TEXTS, some_offsets(1), scene.images, purpose="head", step="head/1")
    costs = scene.client.purchases.by_purpose()
    assert {purpose: cost.queries for purpose, cost in costs.items()} == {"fitness": 5, "head": 1}


# --- what is refused, and what is not believed -------------------------------------------------


def test_a_budget_that_ends_is_its_own_error_and_charges_nothing():
    scene = a_scene(server=FakeServer(queries=7))
    scene.score(some_offsets())
    with pytest.raises(BudgetExhausted, match=r"needs 5 queries; lower --budget, or ask"):
        scene.score(some_offsets(seed=1))
    assert scene.client.purchases.total.queries == scene.server.spent.queries == 5


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (Code.INVALID_KEY, AccessDenied, "--key or CRAFT_API_KEY"),
        (Code.SCOPE_DENIED, AccessDenied, "use another key"),
        (Code.MODEL_DENIED, AccessDenied, "use another key"),
        (Code.PROMPT_KIND_DENIED, AccessDenied, "choose another --method"),
        (Code.UNKNOWN_MODEL, UsageError, "--model"),
        (Code.UNKNOWN_IMAGE_SET, RunError, "start the command again"),
        (Code.TOO_LARGE, UsageError, "send less at once"),
        (Code.TOO_MANY_TOKENS, UsageError, "shorten the class names"),
        (Code.IDEMPOTENCY_KEY_REUSED, RunError, "start a new run"),
        (Code.INVALID_REQUEST, ServerUnreachable, "compare their versions"),
        (Code.INTERNAL, ServerUnreachable, r"\(request req_1\)"),
    ],
)
def test_each_refusal_is_one_error_that_says_what_to_do(code, kind, advice):
    scene = a_scene()
    scene.server.mischief.append(refuses(code))
    with pytest.raises(kind, match=advice) as caught:
        scene.score(some_offsets())
    assert "just because" in caught.value.message
    assert len(scene.bodies()) == 1


def test_a_model_that_was_exchanged_during_the_run_is_noticed():
    scene = a_scene()
    scene.server.mischief.append(changes(digest="e" * 64))
    with pytest.raises(WrongModel, match="changed its model"):
        scene.score(some_offsets())
    assert scene.client.purchases.total == scene.server.spent


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_set": "set_" + "0" * 32}, "answers for model fake::1 and set_000"),
        ({"model": "other"}, "answers for model other"),
        ({"logits": lambda logits: logits[:, :, :2]}, "asked for"),
        ({"logits": lambda logits: logits * np.float32("nan")}, "not finite"),
    ],
)
def test_a_reply_that_does_not_fit_the_question_is_not_used(fields, words):
    scene = a_scene()
    scene.server.mischief.append(changes(**fields))
    with pytest.raises(ServerUnreachable, match=words):
        scene.score(some_offsets())


def test_logits_in_another_media_type_are_no_answer_of_this_protocol():
    scene = a_scene()
    scene.server.mischief.append(says(Answer(body=b"<html>", media_type="text/html")))
    with pytest.raises(ServerUnreachable, match="text/html to POST /v1/logits, which is not prot"):
        scene.score(some_offsets())


# --- models, keys, usage -----------------------------------------------------------------------


def test_the_only_model_is_chosen_and_a_preferred_one_of_several():
    several = FakeServer(cards=[model_card("a::1"), model_card("b::2")])
    assert choose_model(transport_to(FakeServer())).id == "fake::1"
    assert choose_model(transport_to(FakeServer()), prefer="other").id == "fake::1"
    assert choose_model(transport_to(several), prefer="b::2").id == "b::2"
    assert choose_model(transport_to(several), "a::1", prefer="b::2").id == "a::1"


def test_no_choice_and_a_wrong_choice_name_the_models_there_are():
    several = FakeServer(cards=[model_card("a::1"), model_card("b::2")])
    with pytest.raises(UsageError, match=r"has 2 models: a::1, b::2; choose with --model"):
        choose_model(transport_to(several))
    with pytest.raises(UsageError, match=r"has no model 'c'; it has: fake::1"):
        choose_model(transport_to(FakeServer()), "c")


def test_usage_is_asked_for_by_bucket():
    scene = a_scene()
    scene.score(some_offsets())
    total = fetch_usage(transport_to(scene.server))
    assert total.buckets[0].counters == Counters(
        queries=5, calls=1, logit_vectors=35, texts=15, logits=105
    )
    assert fetch_usage(transport_to(scene.server), bucket="day").buckets[0].start is not None


def hide_all_but_the_best(logits: np.ndarray) -> np.ndarray:
    return np.where(logits == logits.max(axis=-1, keepdims=True), 0, -np.inf).astype(logits.dtype)


def test_what_a_key_is_not_reported_is_filled_where_the_card_says_that_little_is_reported():
    card = model_card().model_copy(update={"output": "label"})
    scene = a_scene(server=FakeServer(cards=[card]))
    scene.server.mischief = [changes(logits=hide_all_but_the_best)]
    logits = scene.score(some_offsets())
    assert np.isfinite(logits).all()
    assert (logits.max(axis=-1) == 0).all()


def test_hidden_classes_of_a_server_that_promises_logits_are_a_fault():
    scene = a_scene()
    scene.server.mischief = [changes(logits=hide_all_but_the_best)]
    with pytest.raises(ServerUnreachable, match="not finite"):
        scene.score(some_offsets())
