"""The size of the next piece follows the rate of those before."""

import pytest

from craft_tuner.client.upload_rate import FIRST_BYTES, LARGEST_BYTES, UploadRate


def test_the_first_piece_is_small_and_the_next_follows_the_rate():
    rate = UploadRate()
    assert (rate.room, rate.bytes_per_s) == (FIRST_BYTES, None)
    rate.sent(FIRST_BYTES, seconds=26.2144)
    assert rate.bytes_per_s == pytest.approx(10_000)
    assert rate.room == 200_000
    rate.sent(200_000, seconds=0.001)
    assert rate.room == LARGEST_BYTES


def test_a_tiny_piece_says_nothing_of_the_rate():
    rate = UploadRate()
    rate.sent(1000, seconds=1.0)
    assert (rate.room, rate.bytes_per_s) == (FIRST_BYTES, None)


def test_a_piece_that_failed_is_halved_and_its_bound_grows_with_what_gets_through():
    rate = UploadRate()
    rate.failed(FIRST_BYTES)
    assert rate.room == FIRST_BYTES // 2
    rooms = []
    for _ in range(100):
        rate.sent(rate.room, seconds=0.001)
        rooms.append(rate.room)
    assert rooms == sorted(rooms)
    assert rooms[0] < FIRST_BYTES
    assert rooms[-1] == LARGEST_BYTES
