"""A file that has no weights is refused in one sentence, whatever it is, and nothing in it runs."""

import io
import json
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from craft_server.models.clip.weights import LONGEST, read_weights
from craft_server.settings import ModelError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped(**files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>please sign in</html>", "a web page"),
        (b"\n  <HTML lang=en>", "a web page"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 6\n", "git lfs pull"),
        (json.dumps({"weight_map": {}}).encode(), "it is JSON"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 99, "damaged, or no file of weights"),
        (b"\x1f\x8b" + b"x" * 99, "damaged"),
        (b"plain text", "damaged"),
        (saved(TENSORS)[:-200], "damaged"),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00{", "damaged"),
        (zipped(readme="x"), "damaged"),
        (zipped(a__code__x="x"), "damaged"),
        (
            zipped(a__constants="x", **{"a__data.pkl": pickle.dumps(print), "a__code__x": "x"}),
            "holds builtins.print",
        ),
        (saved(torch.nn.Linear(2, 2)), "holds torch.nn.modules.linear.Linear, not weights alone"),
        (saved({"model": torch.nn.Linear(2, 2)}), "holds torch.nn.modules.linear.Linear"),
        (saved(torch.ones(3)), "no tensors by name"),
        (saved([1, 2]), "no tensors by name"),
        (saved({"epoch": 1, "state_dict": {}}), "no tensors by name"),
        (pickle.dumps(open), "damaged"),
    ],
    ids=range(21),
)
@pytest.mark.parametrize("name", ["weights.pt", "x" * 200 + ".safetensors"])
def test_a_file_without_weights_is_said_to_be_so(tmp_path, content, says, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError) as refused:
        read_weights(path)
    sentence = str(refused.value)
    assert sentence.startswith("checkpoint ")
    assert says in sentence
    assert len(sentence) <= LONGEST
    assert "\n" not in sentence


ONE = torch.ones(1, 1)
ODD = {
    "complex": ONE.to(torch.complex64),
    "meta": ONE.to("meta"),
    "sparse": ONE.to_sparse(),
    "expanded": ONE.expand(2**20, 2**20),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of half of these kinds
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, kind):
    path = tmp_path / "weights.pt"
    path.write_bytes(saved(TENSORS | {kind: ODD[kind]}))
    with pytest.raises(ModelError, match=f"^checkpoint weights.pt: 1 tensors are .*'{kind}'$"):
        read_weights(path)


@pytest.mark.parametrize("name", ["a__code__x", "a__version"])
@pytest.mark.parametrize("big", ["a__data.pkl", "a__data__0"])
def test_an_archive_that_unfolds_is_refused_before_it_does(tmp_path, name, big):
    path, file = tmp_path / "weights.pt", io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name.replace("__", "/"), b"x")
        archive.writestr(big.replace("__", "/"), b"0" * 2**26)
    path.write_bytes(file.getvalue())
    with pytest.raises(ModelError, match="it is a compressed archive, which weights are not"):
        read_weights(path)


@pytest.mark.parametrize(
    "value",
    [
        TENSORS,
        {"epoch": 3, "state_dict": TENSORS, "optimizer": {"state": {}}},
        {"model_state_dict": TENSORS},
        {"model": {"state_dict": TENSORS}},
        {f"module.{name}": tensor for name, tensor in TENSORS.items()},
        {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in TENSORS.items()}},
        {"n_averaged": torch.tensor(3)}
        | {f"module.model.{name}": tensor for name, tensor in TENSORS.items()},
        TENSORS | {"context_length": torch.tensor(77)},
    ],
    ids=range(8),
)
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_names_are_those_of_the_model_whatever_wrapped_them(tmp_path, value, options):
    path = tmp_path / "weights.bin"
    path.write_bytes(saved(value, **options))
    found = read_weights(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_a_name_that_only_some_have_is_no_prefix(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(saved({"model.a": torch.ones(1), "b": torch.ones(1)}))
    assert read_weights(path).keys() == {"model.a", "b"}


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w"])
def test_safetensors_are_known_by_their_content(tmp_path, name):
    save_file(TENSORS, str(tmp_path / name))
    assert read_weights(tmp_path / name).keys() == TENSORS.keys()


class Traced(torch.nn.Module):
    """Modules, parameters and buffers of several kinds."""

    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.logit_scale = torch.nn.Parameter(torch.ones([]))
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x):
        return self.visual(x) * self.logit_scale


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, its archives are not gone
@pytest.mark.parametrize("half", [False, True])
def test_a_torchscript_archive_is_read_without_its_code(tmp_path, monkeypatch, half):
    model = Traced().eval()
    traced = torch.jit.trace(model, torch.zeros(1, 3, 8, 8))
    (traced.half() if half else traced).save(str(tmp_path / "script.pt"))
    wanted = {name: value for name, value in model.state_dict().items() if "resolution" not in name}
    monkeypatch.delattr(torch.jit, "load")
    found = read_weights(tmp_path / "script.pt")
    assert found.keys() == wanted.keys()
    assert all(
        torch.allclose(found[name].float(), wanted[name].float(), atol=1e-3) for name in wanted
    )
    assert found["logit_scale"].dtype == (torch.float16 if half else torch.float32)
