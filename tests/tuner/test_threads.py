"""The tuner's numbers do not depend on the number of cores."""

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from craft_tuner.config.fit_config import build
from craft_tuner.search.base import digest
from craft_tuner.search.cma_es import CmaEs
from craft_tuner.search.projection import project, projection
from craft_tuner.threads import one_blas_thread


def test_numpy_runs_on_one_thread_inside_and_as_before_outside() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_blas_thread():
        assert set(threads()) == {1}
    assert threads() == before


def test_a_search_asks_the_same_bits_on_any_number_of_threads() -> None:
    found = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            config = build({"intrinsic_dim": 300})
            a, search = projection(config, 64), CmaEs(config, generations=3)
            while search.stopped is None:
                z = search.ask()
                search.tell([float(((row - 1) ** 2).sum()) for row in z])
            offsets = project(a, np.vstack([search.center, z]), n_ctx=4)
            found.add((digest(z), offsets.tobytes()))
    assert len(found) == 1
