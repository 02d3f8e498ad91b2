"""Fuzz the readers of untrusted bytes: the tensor codec, the JSON messages, the image door.

    python -m scripts.fuzz [--seconds 60] [--target codec|message|picture]

Each target is a function of any bytes at all that raises `BrokenError` if an invariant of the
reader does not hold: only its documented error escapes, what was read can be written and read
again to the same, and the time is bounded. This script drives the targets with atheris (the extra
`fuzz`); tests/shared/test_fuzz.py drives the same with Hypothesis. What breaks a target is kept in
fuzz/.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from craft_server.images.decoding import ImageLimits, open_image
from craft_shared import tensors, testing, wire
from craft_shared.errors import Refusal
from craft_shared.messages import ImageSetRequest, LogitsRequest, Manifest
from craft_shared.tensors import MalformedTensors

LONGEST_S = 20.0
"""Far above what any of these inputs takes; a bomb takes minutes."""

_LIMITS = ImageLimits(
    bytes=2**20,
    pixels=2**20,
    owner_bytes=2**30,
    owner_images=10,
    images_per_set=10,
    owner_sets=10,
    owner_set_images=10,
)


class BrokenError(AssertionError):
    """An invariant does not hold for these bytes."""


def codec(data: bytes) -> None:
    """Tensor bodies: read, written and read again."""
    try:
        arrays, metadata = tensors.decode(data)
    except MalformedTensors:
        return
    written = tensors.encode(arrays, metadata)
    if tensors.encode(*tensors.decode(written)) != written:
        raise BrokenError("a tensor body does not survive being written")
    try:
        request, offsets = wire.decode_request(data)
    except Refusal:
        return
    again, same = wire.decode_request(wire.encode_request(request, offsets))
    if again != request or _bytes(same) != _bytes(offsets):
        raise BrokenError("a request in tensors does not survive being written")


def message(data: bytes) -> None:
    """JSON messages: read, written and read again."""
    for model in (LogitsRequest, Manifest, ImageSetRequest):
        try:
            found = wire.parse(model, data)
            if isinstance(found, LogitsRequest):
                wire.offsets_from_json(found)
        except Refusal:
            continue
        if wire.parse(model, found.model_dump_json()) != found:
            raise BrokenError(f"a {model.__name__} does not survive being written")


def picture(data: bytes) -> None:
    """Image files: decoded within the limits."""
    try:
        image = open_image(data, _LIMITS)
    except Refusal:
        return
    width, height = image.size
    if image.mode != "RGB" or width * height > _LIMITS.pixels:
        raise BrokenError(f"an image of {width} x {height} pixels, mode {image.mode}, came through")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (codec, message, picture)
}


def check(target: Callable[[bytes], None], data: bytes) -> None:
    """Run a target, and hold it to its time."""
    began = time.monotonic()
    target(data)
    if (took := time.monotonic() - began) > LONGEST_S:
        raise BrokenError(f"{len(data)} bytes took {took:.0f} s")


def seeds(name: str) -> list[bytes]:
    """What a target's mutations begin with: good inputs and known attacks."""
    requests = [
        testing.valid_request(),
        testing.valid_request(prompts={"kind": "text", "templates": ["a {}.", "{}"]}),
        testing.valid_request(prompts={"kind": "soft", "context": "a", "offsets": [[[0.5, 1e-3]]]}),
        {"ids": ["0" * 64]},
        {"images": ["f" * 64], "name": "train"},
    ]
    if name == "message":
        return [json.dumps(request).encode() for request in requests]
    if name == "codec":
        request = LogitsRequest.model_validate(requests[0])
        good = wire.encode_request(request, np.ones((1, 2, 4), np.float32))
        attacks = (attack.body for attack in testing.attacks())
        return [good, *(body for body in attacks if len(body) < 4096)]
    ramp = Image.linear_gradient("L").resize((24, 16))
    return [
        _saved(ramp.convert("RGB"), "PNG"),
        _saved(ramp.convert("P"), "PNG", bits=4),
        _saved(ramp.convert("RGB"), "JPEG"),
        _saved(ramp.convert("RGB"), "JPEG", progressive=True),
        _saved(ramp.convert("CMYK"), "JPEG"),
        _saved(ramp.convert("RGBA"), "WEBP", lossless=True),
        _saved(ramp.convert("RGB"), "WEBP", quality=40),
    ]


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _bytes(array: wire.FloatArray | None) -> bytes | None:
    return None if array is None else array.tobytes()


def fuzz(name: str, seconds: int) -> None:
    """Let atheris attack one target; does not return."""
    import atheris  # noqa: PLC0415 - an extra that only this needs

    found = Path("fuzz")
    found.mkdir(exist_ok=True)
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, seed in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(seed)
    atheris.instrument_all()
    flags = [f"-max_total_time={seconds}", f"-timeout={LONGEST_S:.0f}", "-rss_limit_mb=4096"]
    prefix = f"-artifact_prefix={found}/{name}-"
    atheris.Setup([sys.argv[0], str(corpus), *flags, prefix], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    """Fuzz one target, or each in a process of its own, since atheris ends the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    options = parser.parse_args()
    if find_spec("atheris") is None:
        raise SystemExit("no atheris here: pip install -c constraints.txt -e '.[fuzz]'")
    if options.target:
        fuzz(options.target, options.seconds)
    for name in TARGETS:
        print(f"{name}: {options.seconds} s", flush=True)
        flags = ["--target", name, "--seconds", str(options.seconds)]
        subprocess.run([sys.executable, "-m", "scripts.fuzz", *flags], check=True)


if __name__ == "__main__":
    main()
