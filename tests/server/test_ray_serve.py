"""What a replica on Ray is set to, without Ray (tests/e2e/test_ray.py has it)."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from craft_server.api.services import services_of
from craft_server.ray_serve import build, replica_settings
from craft_shared.errors import Code, Refusal

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
def test_what_replicas_must_share_has_to_be_given(name):
    given = {key: value for key, value in SHARED.items() if key != name}
    with pytest.raises(ValueError, match=f"{name} is not set.*CRAFT_SERVER_{name.upper()}"):
        replica_settings(given, "abc")


def test_an_option_that_is_no_setting_is_refused():
    with pytest.raises(ValueError, match="querys"):
        replica_settings(SHARED | {"querys": 1}, "abc")


class FakeServe:
    """In place of `ray.serve`: remembers its options, and builds the application when asked."""

    def __init__(self):
        self.options = {}
        self.build_app = None

    def ingress(self, build_app):
        self.build_app = build_app
        return lambda replica: replica

    def deployment(self, replica, **options):
        self.options = options
        return SimpleNamespace(bind=lambda: replica)

    def get_replica_context(self):
        return SimpleNamespace(replica_id=SimpleNamespace(unique_id="abc"))


@pytest.fixture
def serve(monkeypatch):
    serve = FakeServe()
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=serve))
    return serve


@pytest.mark.parametrize(("device", "gpus"), [("auto", 0), ("cpu", 0), ("cuda", 1)])
def test_ray_is_reported_of_devices_of_as_many_requests_as_the_queue_takes_and_of_the_drain(
    serve, device, gpus
):
    build(SHARED | {"replicas": "3", "cpus": "2", "device": device, "queue": 9, "drain_s": 20})
    assert serve.options["num_replicas"] == 3
    assert serve.options["ray_actor_options"] == {"num_cpus": 2.0, "num_gpus": gpus}
    assert serve.options["max_ongoing_requests"] == 9
    assert serve.options["graceful_shutdown_timeout_s"] > 20


def test_a_replica_is_well_while_its_device_scores_and_says_so_when_it_stops(serve, tmp_path):
    shared = {
        "database_url": f"sqlite:///{tmp_path}/craft.db",
        "image_url": f"file://{tmp_path}/images",
    }
    replica = build(shared | {"model": "stub", "data_dir": str(tmp_path)})()
    replica.app = serve.build_app()

    async def lives_and_stops():
        async with replica.app.router.lifespan_context(replica.app):
            await replica.check_health()
        with pytest.raises(Refusal) as caught:
            await replica.check_health()
        return caught.value.code

    assert asyncio.run(lives_and_stops()) is Code.DRAINING
    assert services_of(replica.app).settings.replica == "abc"
