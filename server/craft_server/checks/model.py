"""The model: device, name, checkpoint and memory, before it is loaded; or by loading it."""

from typing import Any

from craft_server import runtime
from craft_server.app import check_names, load_blackbox
from craft_server.checks.findings import Check
from craft_server.checks.machine import memory_bytes
from craft_server.logits.scoring import canary
from craft_server.settings import EMBEDDED, Settings

_SETTING = "CRAFT_SERVER_{} is in docs/reference/settings.md"
_GIB = 2**30
_PASS_BYTES = 320
"""Memory that a pass of an image tower takes for each pixel of its input, about."""
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def check_model(settings: Settings) -> Check:
    """Look at the model and load nothing."""
    check = Check("model")
    with check.refused(_SETTING.format("PRETRAINED")):
        check_names(settings)
    if check.failed:
        return check
    if settings.model == "stub":
        check.ok("the model is the stub, which has no weights: its logits mean nothing")
        return check
    runtime.configure_libraries()
    from craft_server.models.clip.load import pick_device  # noqa: PLC0415 - imports torch
    from craft_server.models.clip.source import find_source, load_tokenizer  # noqa: PLC0415

    device = source = None
    with check.refused(_SETTING.format("DEVICE")):
        device = pick_device(settings.device)
        check.ok(f"the device is {device}")
    with check.refused(_SETTING.format("MODEL")):
        source = find_source(settings)
        load_tokenizer(source.name)
        if source.assumed is not None:
            check.warn(*source.assumed.split("; ", 1))
    if source is not None:
        with check.refused(f"give the weights of {source.name}, or their model by --model"):
            _check_weights(check, settings, source, device)
    return check


def _check_weights(check: Check, settings: Settings, source: Any, device: Any) -> None:
    """Hold the checkpoint against the model, or look whether it can be downloaded."""
    from craft_server.models.clip.outline import (  # noqa: PLC0415 - imports torch
        free_bytes,
        is_tag,
        outline_of,
    )

    outline = outline_of(source)
    if is_tag(source):
        _check_download(check, source.name, str(source.pretrained))
    else:
        kind = "the weights of the package" if source.name == EMBEDDED else source.pretrained
        check.ok(f"{source.id} is made of {kind}")
    free = free_bytes(device) if device is not None else None
    there, where = (memory_bytes(), "the machine") if free is None else (free, str(device))
    weights = outline.weights * _BYTES[settings.precision]
    images = settings.encode_batch * outline.image_side**2 * _PASS_BYTES
    if weights > there:
        check.fail(
            f"{source.id} takes {weights / _GIB:.1f} GiB, and {where} has {there / _GIB:.1f}",
            "take --precision float16, a smaller model or another --device",
        )
    elif weights + images > there:
        check.warn(
            f"a pass of encode_batch {settings.encode_batch} images takes about "
            f"{images / _GIB:.1f} GiB, and {where} has {(there - weights) / _GIB:.1f} for it",
            "lower CRAFT_SERVER_ENCODE_BATCH",
        )


def _check_download(check: Check, name: str, tag: str) -> None:
    from craft_server.models.clip.downloads import (  # noqa: PLC0415 - imports open_clip
        download_of,
        unreachable,
    )

    path, addresses = download_of(name, tag)
    if path is not None:
        check.ok(f"{name}::{tag} is on this machine: {path}")
    elif (why := unreachable(addresses)) is None:
        check.ok(f"{name}::{tag} is not on this machine, and is downloaded at the first start")
    else:
        check.fail(
            f"the checkpoint {name}::{tag} is not on this machine and cannot be downloaded: {why}",
            f"fetch {' or '.join(addresses)} elsewhere, then "
            f"--pretrained /path/to/it --pretrained-like {tag}",
        )


def check_forward(settings: Settings) -> Check:
    """Load the model as a server does, and score one image on one text."""
    check = Check("forward")
    with check.refused("look at the lines above"):
        blackbox = load_blackbox(settings)
        try:
            blackbox.start()
            canary(blackbox)
        except RuntimeError as error:
            check.fail(f"a test forward failed: {error}", "try --device cpu --precision float32")
        else:
            card = blackbox.card
            check.ok(f"{card.id} is loaded and scores ({card.text_path}, {card.dtype})")
    return check
