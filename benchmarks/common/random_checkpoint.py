"""RN50 with random weights in a file; time and memory do not depend on what the weights are.

    python -m benchmarks.common.random_checkpoint FOLDER

As a program it makes the file and prints its path, for who must stay smaller than a model.
"""

import sys
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file


def random_checkpoint(folder: Path) -> Path:
    """RN50's tensors, random, in a file."""
    torch.manual_seed(0)
    file = folder / "random.safetensors"
    save_file(open_clip.create_model("RN50").state_dict(), str(file))
    return file


if __name__ == "__main__":
    print(random_checkpoint(Path(sys.argv[1])))
