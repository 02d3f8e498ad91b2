"""What the libraries of a fit take before it begins, in MB: loaded in a process that does nothing.

python -m benchmarks.accuracy.fit_imports
"""

import cma
import sklearn.datasets
import torch

import craft_tuner.cli.main
import craft_tuner.commands.fit
import craft_tuner.methods.craft
import craft_tuner.report.page
from benchmarks.common.machine import own_resident_mb

LOADED = (cma, sklearn.datasets, craft_tuner)

if __name__ == "__main__":
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # torch loads much at its first use
    print(own_resident_mb())
