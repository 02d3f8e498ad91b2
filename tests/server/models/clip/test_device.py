"""One thread computes in parallel, and it stays the one."""

import threading

import pytest
import torch

from craft_server.models.clip.device import compute_here, stay_small


@pytest.fixture(autouse=True)
def as_it_was():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_a_thread(*works):
    """What a fresh thread sees after each work."""
    seen = []

    def run():
        for work in works:
            work()
            seen.append(torch.get_num_threads())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen


def test_a_thread_stays_small_unless_it_is_the_devices():
    assert in_a_thread(stay_small) == [1]
    assert in_a_thread(lambda: compute_here(2), stay_small) == [2, 2]
    assert in_a_thread(stay_small, lambda: compute_here(2)) == [1, 2]
