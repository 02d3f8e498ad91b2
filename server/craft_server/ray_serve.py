r"""The server as an application of Ray Serve, for those who run Ray: N replicas, a device each.

    serve run craft_server.ray_serve:build replicas=2 device=cuda \
        database_url=postgresql+psycopg://craft@host/craft image_url=s3://bucket/prefix

Owns the options of a replica that Ray needs. Its other settings come from its environment, as
everywhere: secrets need not pass through Ray.
"""

from typing import TYPE_CHECKING, Any

from craft_server.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

_STOP_S = 10.0
"""Beside the drain: closing the database and the files."""


def build(options: dict[str, Any]) -> Any:
    """The application that `serve run` starts.

    Args:
        options: `replicas` (1), `cpus` of each (1), and settings of the server by name.

    Raises:
        ValueError: an option is out of bounds, or the replicas would not share what they must.
    """
    from ray import serve  # noqa: PLC0415 - an extra

    given = dict(options)
    replicas, cpus = int(given.pop("replicas", 1)), float(given.pop("cpus", 1))
    settings = replica_settings(given, "check")

    class Replica:
        """One process with its model; Ray asks it now and then whether it works."""

        app: "FastAPI"

        async def check_health(self) -> None:
            """Raise if the device does not score."""
            from craft_server.api.services import services_of  # noqa: PLC0415 - in the replica

            await services_of(self.app).logits.check_ready()

    def app() -> "FastAPI":
        from craft_server.app import create_app, load_blackbox  # noqa: PLC0415 - in the replica

        own = replica_settings(given, serve.get_replica_context().replica_id.unique_id)
        return create_app(own, load_blackbox(own))

    deployment = serve.deployment(
        serve.ingress(app)(Replica),
        name="craft-server",
        num_replicas=replicas,
        max_ongoing_requests=settings.queue,
        ray_actor_options={"num_cpus": cpus, "num_gpus": int(settings.device.startswith("cuda"))},
        graceful_shutdown_timeout_s=settings.drain_s + _STOP_S,
    )
    return deployment.bind()


def replica_settings(given: dict[str, Any], replica: str) -> Settings:
    """The settings of one replica: a name and a folder of its own, the rest as given.

    Raises:
        ValueError: database or images would be in that folder, and so not be shared.
    """
    settings = Settings(**given)
    for name in ("database_url", "image_url"):
        if getattr(settings, name) is None:
            raise ValueError(
                f"{name} is not set: replicas of Ray Serve share no folder; give it as an option "
                f"or as CRAFT_SERVER_{name.upper()}"
            )
    own = {
        "replica": replica,
        "data_dir": settings.data_dir / replica,
        "metrics_port": None,  # replicas of one host would fight for it
    }
    return settings.model_copy(update=own)
