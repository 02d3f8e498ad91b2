"""200 mutated files of weights: each loads or is refused in a sentence, and nothing in it runs."""

import io
import json
import pickle
import random
import resource
import struct
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save as safetensors

from craft_server.models.clip.load import create_model
from craft_server.models.clip.source import Source
from craft_server.models.clip.weights import LONGEST
from craft_server.settings import ModelError

pytestmark = [pytest.mark.slow, pytest.mark.long]

BATCHES, EACH = 10, 20
EXTRA_BYTES = 2**28
"""What reading a file of some kilobytes may take at most, torch's own start left out."""
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 99, "width": 8, "heads": 1, "layers": 1},
}
WRONG = [
    b"<!doctype html><html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    b"PK\x03\x04", b"GGUF", b"{", b"\x80\x02", b"\xff" * 8 + b"{", b"\x00" * 300, b"\x1f\x8b",
]  # fmt: skip


class Runs:
    """Unpickled, it would call a function of this module."""

    def __reduce__(self):
        return ran, ("pickle",)


CALLED = []


def ran(what):
    CALLED.append(what)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "fuzzed.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return Source("fuzzed", None, "fuzzed::none")


@pytest.fixture(scope="module")
def weights(source):
    return create_model(source, "float32", torch.device("cpu")).state_dict()


def saved(value, *, zipped=True):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


# --- the same tensors, not quite ----------------------------------------------------------------


def swapped(rng, found):
    one, other = rng.sample(sorted(found), 2)
    found[one], found[other] = found[other], found[one]


def renamed(rng, found):
    name = rng.choice(sorted(found))
    new = rng.choice(["", "x", f"module.{name}", name.upper(), "text." + name, "a" * 9999, "\n"])
    found[new] = found.pop(name)


def reshaped(rng, found):
    name = rng.choice(sorted(found))
    value = found[name]
    other = [value.new_zeros(0), value.new_ones(3, 5, 7, 2), torch.tensor(1.0)]
    found[name] = rng.choice([value[None], value.reshape(-1), *other])


def retyped(rng, found):
    name = rng.choice(sorted(found))
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.int64]
    found[name] = found[name].to(rng.choice(kinds))


def not_finite(rng, found):
    name = rng.choice(sorted(found))
    found[name] = torch.full_like(found[name], rng.choice([float("nan"), float("inf"), 1e38]))


def not_plain(rng, found):
    """Complex, without numbers, one number for many: what a pickle of torch may hold."""
    name = rng.choice(sorted(found))
    value, one = found[name], torch.zeros(1)
    shared = [one.expand(value.shape), one.expand(2**40)]
    kinds = [torch.complex64, torch.float8_e4m3fn, "meta"]
    found[name] = rng.choice([value.to_sparse(), *shared, *map(value.to, kinds)])


def left_out(rng, found):
    del found[rng.choice(sorted(found))]


def wrong_kind(rng, found):
    values = [None, 3, "x", [], {}, {"state_dict": 1}, (1, 2)]
    found[rng.choice([*sorted(found), "state_dict", "model"])] = rng.choice(values)


def nothing(rng, found):
    pass


CHANGES = [swapped, renamed, reshaped, retyped, not_finite, left_out, nothing]
"""Of plain tensors; pickles hold anything."""


# --- files --------------------------------------------------------------------------------------


def as_pickle(rng, found):
    for change in (wrong_kind, not_plain):
        if rng.random() < 0.2:
            change(rng, found)
    if rng.random() < 0.2:
        found["run"] = Runs()
    deep = rng.choice(["", "state_dict", "model", "module"])
    return saved({deep: found} if deep else found, zipped=rng.random() < 0.6)


def as_safetensors(rng, found):
    return safetensors({name: value.contiguous().clone() for name, value in found.items()})


def as_pickle_alone(rng, found):
    return pickle.dumps(rng.choice([Runs(), {"a": Runs()}, {"a": 1}, found, open]))


def as_zip(rng, found):
    """An archive with other things in it: a script's pickle, parts that unfold, parts missing."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        code = rng.choice(["a/code/x.py", "a/constants.pkl", "a/version"])
        archive.writestr(code, b"")
        data = rng.choice([pickle.dumps(Runs()), pickle.dumps({"a": 1}), b"\0" * 10**8, b""])
        archive.writestr(rng.choice(["a/data.pkl", "b/data.pkl", "data.pkl"]), data)
        archive.writestr("a/data/0", b"\0" * rng.choice([0, 8, 10**8]))
    return file.getvalue()


def as_header(rng, found):
    """Safetensors whose header says what is not so."""
    data = as_safetensors(rng, found)
    size = struct.unpack("<Q", data[:8])[0]
    head = data[8 : 8 + size]
    lies = [(b'"F32"', b'"F64"'), (b"[8]", b"[9]"), (b"[0,", b"[9,"), (b":[", b":{")]
    was, says = rng.choice(lies)
    new = rng.choice([size, size + 1, 2**40, 2**63])
    return struct.pack("<Q", new) + head.replace(was, says, 1) + data[8 + size :]


KINDS = [as_pickle, as_pickle, as_safetensors, as_pickle_alone, as_zip, as_header]


def flipped(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(rng, data):
    return data[: rng.randrange(len(data))]


def mixed(rng, data):
    wrong = rng.choice(WRONG)
    return rng.choice([wrong + data, data + wrong, wrong, data[:99] + wrong + data[99:]])


def doubled(rng, data):
    return data + data


def whole(rng, data):
    return data


DAMAGES = [*[whole] * 5, flipped, flipped, cut, mixed, doubled]


def mutated(rng, weights):
    found = {name: value.clone() for name, value in weights.items()}
    for _ in range(rng.randrange(3)):
        rng.choice(CHANGES)(rng, found)
    return rng.choice(DAMAGES)(rng, rng.choice(KINDS)(rng, found))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_mutated_file_loads_or_is_refused_in_a_sentence(batch, source, weights, tmp_path):
    rng = random.Random(batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(EACH):
        path = tmp_path / f"{number}.{rng.choice(['pt', 'bin', 'safetensors', 'zip'])}"
        path.write_bytes(mutated(rng, weights))
        named = source._replace(pretrained=str(path))
        for device in (torch.device("meta"), torch.device("cpu")):
            try:
                create_model(named, "float32", device)
            except ModelError as refused:
                sentence = str(refused)
                assert len(sentence) <= LONGEST
                assert len(sentence.splitlines()) == 1, sentence
                assert path.name in sentence
            except Exception as fault:  # noqa: BLE001 - whatever it is, it is a fault
                pytest.fail(f"{batch}/{number}: {fault!r}")
    assert not CALLED
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 2**10
    assert taken < EXTRA_BYTES
