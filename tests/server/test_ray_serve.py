"""What a replica on Ray is set to, without Ray (tests/e2e/test_ray.py has it)."""

from pathlib import Path

import pytest

from craft_server.ray_serve import replica_settings

SHARED = {"database_url": "postgresql://host/craft", "image_url": "s3://bucket/images"}


def test_a_replica_has_a_name_and_a_folder_of_its_own_and_shares_the_rest():
    given = SHARED | {"data_dir": "/data", "metrics_port": 9464, "queue": "7"}
    settings = replica_settings(given, "abc")
    assert (settings.replica, settings.data_dir) == ("abc", Path("/data/abc"))
    assert settings.metrics_port is None
    assert settings.queue == 7
    assert settings.database_url == SHARED["database_url"]
    assert settings.image_place == SHARED["image_url"]


@pytest.mark.parametrize("name", SHARED)
def test_what_replicas_must_share_has_to_be_told(name):
    given = {key: value for key, value in SHARED.items() if key != name}
    with pytest.raises(ValueError, match=f"{name} is not set.*CRAFT_SERVER_{name.upper()}"):
        replica_settings(given, "abc")


def test_an_option_that_is_no_setting_is_refused():
    with pytest.raises(ValueError, match="querys"):
        replica_settings(SHARED | {"querys": 1}, "abc")
