"""The fuzz targets of scripts/fuzz.py for a moment: Hypothesis mutates what is known."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from craft_server.images.decoding import open_image
from craft_shared import tensors
from scripts.fuzz import TARGETS, BrokenError, check, codec, message, picture, seeds

pytestmark = pytest.mark.slow


@st.composite
def mutated(draw, name):
    """A known input with a few bytes, or stretches of them, changed, lost, doubled or moved."""
    data = bytearray(draw(st.sampled_from(seeds(name))))
    for _ in range(draw(st.integers(0, 6))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        piece = bytes(data[start : min(end, start + 64)])
        new = draw(st.sampled_from([b"", piece * 2, piece[::-1]]) | st.binary(max_size=8))
        data[start : start + len(piece)] = new
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_only_a_refusal_escapes_and_what_is_read_can_be_written(name):
    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(mutated(name) | st.binary(max_size=200))
    def attack(data):
        check(TARGETS[name], data)

    attack()


@pytest.mark.parametrize("name", TARGETS)
def test_known_inputs_pass_and_some_are_good(name):
    for seed in seeds(name):
        check(TARGETS[name], seed)


def test_a_target_notices_a_reader_that_is_broken(monkeypatch):
    """Each invariant, broken on purpose."""
    good = {name: seeds(name)[0] for name in TARGETS}
    with monkeypatch.context() as patch:
        patch.setattr(
            "scripts.fuzz.open_image", lambda data, limits: open_image(data, limits).convert("L")
        )
        with pytest.raises(BrokenError, match="mode L"):
            picture(good["picture"])
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "encode", lambda arrays, metadata: good["codec"][:-1])
        with pytest.raises(tensors.MalformedTensors):
            codec(good["codec"])
    with monkeypatch.context() as patch:
        patch.setattr("scripts.fuzz.LONGEST_S", -1.0)
        with pytest.raises(BrokenError, match="took"):
            check(message, good["message"])
