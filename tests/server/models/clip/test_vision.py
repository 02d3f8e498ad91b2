"""The image encoder: records are the tower's own features, the same bits in any company."""

import numpy as np
import pytest
import torch
from torch import nn

from craft_server.models.clip.vision import ImageEncoder, stack


class Tower(nn.Module):
    """A small convolution and a projection in place of open_clip's model."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.visual = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(512, 24))
        self.to(dtype)
        self.passes = []

    def encode_image(self, batch):
        self.passes.append(len(batch))
        return self.visual(batch)


def pixels(count):
    return list(torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


def encoder(model, batch=8):
    dtype = model.visual[2].bias.dtype
    return ImageEncoder(model, lambda image: image, dtype=dtype, batch=batch, key="key")


def test_a_record_is_the_towers_normalised_features_in_float32():
    model = Tower()
    records = encoder(model).encode(pixels(5))
    with torch.inference_mode():
        own = nn.functional.normalize(model.encode_image(torch.stack(pixels(5))), dim=-1)
    found = np.stack([np.frombuffer(record, "<f4") for record in records])
    assert found.shape == (5, 24)
    assert np.abs(found - own.numpy()).max() < 1e-6


def test_passes_are_bounded_and_filled_to_a_multiple_of_four():
    model = Tower()
    assert len(encoder(model).encode(pixels(21))) == 21
    assert model.passes == [8, 8, 8]


def test_loading_gives_the_records_values_as_one_matrix():
    one = encoder(Tower())
    records = one.encode(pixels(3))
    matrix = one.load([records[2], records[0], records[2]])
    assert matrix.shape == (3, 24)
    assert matrix.numpy().tobytes() == records[2] + records[0] + records[2]


def test_half_precision_towers_give_float32_records():
    full, half = encoder(Tower()), encoder(Tower(torch.bfloat16))
    gap = full.load(full.encode(pixels(4))) - half.load(half.encode(pixels(4)))
    assert 0 < gap.abs().max() < 0.05


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad):
    model = Tower()
    with torch.no_grad():
        model.visual[2].bias[3] = bad
    with pytest.raises(RuntimeError, match="not finite"):
        encoder(model).encode(pixels(2))


def test_a_batch_is_one_tensor_on_the_device():
    images = pixels(3)
    batch = stack(images, torch.device("cpu"))
    assert torch.equal(batch, torch.stack(images))
