"""The embedded model's files: an open_clip configuration, and weights with a sparse token table.

Owns the format. `weights.safetensors` holds open_clip's state dict, matrices as float16 and vectors
as float32, except that `token_embedding.weight` (V, W) is stored as `token_embedding.rows` (R, W)
float16 and `token_embedding.ids` (R,) int32; all other rows are zero.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.numpy import load_file, save

TABLE = "token_embedding"
CONFIG_FILE = "embedded.json"
"""open_clip names a local model by the stem of its configuration's file."""
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 256,
    "vision_cfg": {
        "image_size": 32,
        "layers": [1, 1, 1, 1],
        "width": 16,
        "patch_size": None,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}


def build_model() -> open_clip.CLIP:
    """A freshly initialised CLIP of MODEL_CONFIG."""
    return open_clip.CLIP(**MODEL_CONFIG)


def write_model(folder: Path, state: dict[str, torch.Tensor], token_ids: list[int]) -> None:
    """Write embedded.json and weights.safetensors; `state` has (R, W) at token_embedding.weight."""
    tensors = {name: _rounded(value) for name, value in state.items()}
    tensors[f"{TABLE}.rows"] = tensors.pop(f"{TABLE}.weight")
    tensors[f"{TABLE}.ids"] = np.asarray(token_ids, dtype=np.int32)
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(save(ordered))
    (folder / CONFIG_FILE).write_text(json.dumps(MODEL_CONFIG, indent=2) + "\n")


def read_model(folder: Path) -> open_clip.CLIP:
    """The model of a folder, in float32 and evaluation mode."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    stored = load_file(folder / "weights.safetensors")
    ids, rows = stored.pop(f"{TABLE}.ids"), stored.pop(f"{TABLE}.rows")
    table = torch.zeros(config["text_cfg"]["vocab_size"], rows.shape[1])
    table[torch.from_numpy(ids).long()] = torch.from_numpy(rows).float()
    state = {name: _widened(torch.from_numpy(value)) for name, value in stored.items()}
    model = open_clip.CLIP(**config)
    model.load_state_dict({**state, f"{TABLE}.weight": table})
    return model.eval()


def _rounded(value: torch.Tensor) -> np.ndarray[Any, Any]:
    """Matrices to float16, all else as it is."""
    narrow = value.is_floating_point() and value.ndim >= 2
    array: np.ndarray[Any, Any] = (value.half() if narrow else value).detach().numpy()
    return array


def _widened(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value
