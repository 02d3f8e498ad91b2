"""Every setting of the server: one frozen value, built at the edge and handed down.

Sources, strongest first: command line flags, environment variables `CRAFT_SERVER_<NAME>`, files
`craft_server_<name>` in /run/secrets, where Docker and Kubernetes put what must be in no variable.
Unknown variables are named by the command line (cli/options.py), unknown files are ignored,
unknown keyword arguments are errors.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from craft_shared.admin import OtherLimits
from craft_shared.limits import MAX_LIMIT
from craft_shared.messages import PromptKind

EMBEDDED = "embedded"
"""Model name of the CLIP that ships with this package."""

DATABASE_EXAMPLES = "sqlite:////srv/craft.db or postgresql://user@host/name"
"""What a `database_url` is like, for those whose own cannot be used."""

_POSTGRES = {"postgres", "postgresql"}
"""Without a driver: ours is psycopg."""

_MOUNTED = Path("/run/secrets")


class ModelError(Exception):
    """The settings name a model or device that cannot be used; the message says what to do."""


class Settings(BaseSettings):
    """How one server process runs; `Settings(port=9000)` overrides the environment."""

    model_config = SettingsConfigDict(
        env_prefix="CRAFT_SERVER_",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        secrets_dir=_MOUNTED if _MOUNTED.is_dir() else None,
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    access_log: bool = Field(
        default=True, description="write a line for every HTTP request, probes at level debug"
    )
    log_format: Literal["text", "json"] = Field("text", description="form of the log's lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="from which level on the server's own lines are written"
    )
    trust_request_id: bool = Field(
        default=False,
        description="take the X-Request-Id of the proxy in front; only where clients cannot set it",
    )
    metrics_host: str = Field("127.0.0.1", description="address of metrics_port")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of the metrics for Prometheus, and of the probes /livez and /readyz that "
        "answer whatever the server has to do; without a key; default: none",
    )
    otel_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP collector that gets traces, as in http://127.0.0.1:4318; needs the "
        "extra `otel`; default: none",
    )
    data_dir: Path = Field(Path("var"), description="folder of the ledger and the image store")
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the ledger, as in postgresql://user@host/name; "
        "default: SQLite, craft.db in data_dir",
    )
    database_password: SecretStr | None = Field(
        None,
        description="password for database_url, if that has none; best given as the file "
        "/run/secrets/craft_server_database_password",
    )
    image_url: str | None = Field(
        None,
        description="where image bytes are kept, shared by replicas on several hosts, as in "
        "s3://bucket/prefix or file:///mnt/images; default: the folder images in data_dir",
    )
    migrate: bool = Field(
        default=True,
        description="make or upgrade the tables at start; off: refuse a database whose schema is "
        "not the newest, until `craft-server db upgrade` has run",
    )

    model: str = Field(
        EMBEDDED,
        description="`embedded`, an open_clip model name, or the path of an open_clip JSON config",
    )
    pretrained: str | None = Field(
        None, description="an open_clip tag such as `openai`, or the path of a checkpoint file"
    )
    pretrained_like: str | None = Field(
        None,
        description="the open_clip tag whose checkpoint the file of `pretrained` is, where its "
        "name does not show it: for activation and preprocessing; for a JSON config of `model`, "
        "also MODEL::TAG of the open_clip model that it is like",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="arithmetic of the towers"
    )
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 leaves it to torch")
    prompt_kinds: tuple[PromptKind, ...] = Field(
        ("soft", "text"), min_length=1, description="prompts that clients may send"
    )

    max_body_bytes: int = Field(64 * 2**20, ge=2**10, description="largest request body")
    max_json_bytes: int = Field(
        8 * 2**20, ge=2**10, description="largest request body of JSON, which unfolds in memory"
    )
    bodies_bytes: int = Field(
        2**29,
        ge=2**20,
        description="request bodies in memory at a time, beside 1 MiB for each; then 503",
    )
    body_s: float = Field(120, gt=0, description="longest time that a body may take to arrive")
    head_s: float = Field(
        10, gt=0, description="longest time that a connection may be without a request"
    )
    connections: int = Field(
        512,
        ge=2,
        description="connections at a time; of more, those without a request are closed first",
    )
    key_connections: int = Field(
        64,
        ge=1,
        description="requests of one key of any kind at a time, from when its key is known until "
        "its reply has left, before 429",
    )
    owner_connections: int = Field(
        0,
        ge=0,
        description="the same for all keys of one owner; 0 takes a quarter of `connections`",
    )
    least_body_rate: float = Field(
        8192,
        gt=0,
        description="bytes a second at which a body must arrive, but for stalls of `stall_s`",
    )
    least_reply_rate: float = Field(
        65536,
        gt=0,
        description="bytes a second at which a reply must be read, but for stalls of `stall_s`; "
        "who is slower is cut off and can have the reply again free",
    )
    stall_s: float = Field(
        10, gt=0, description="how far a body or a reply may be behind its least rate"
    )
    replies_bytes: int = Field(
        2**30,
        ge=2**20,
        description="replies that leave, in memory at a time, with the texts of those that leave "
        "in blocks; then 503",
    )
    owner_replies_bytes: int = Field(
        2**29, ge=2**20, description="the same of one owner, but always one reply; then 429"
    )
    key_replies_bytes: int = Field(
        2**28, ge=2**20, description="the same of one key, but always one reply; then 429"
    )
    key_replays: int = Field(
        2,
        ge=1,
        description="free replays of one key that are computed again at a time, and twice as many "
        "of one owner, before 429",
    )
    usage_readers: int = Field(
        2,
        ge=1,
        description="reads of usage at a time; of two or more, one owner has all but one at most",
    )
    key_usage_reads: int = Field(
        8,
        ge=1,
        description="reads of usage of one key that wait or run, and twice as many of one owner, "
        "before 429",
    )
    max_prompts: int = Field(1024, ge=1, description="most prompts in one request")
    max_classes: int = Field(2048, ge=1, description="most class names in one request")
    max_images: int = Field(50_000, ge=1, description="most images in one image set")
    max_texts: int = Field(2**18, ge=1, description="most prompts x classes in one request")
    max_logits: int = Field(
        2**28, ge=1, description="most prompts x images x classes in one request"
    )
    max_offset: int = Field(
        1000,
        ge=1,
        le=10**6,
        description="largest magnitude of an offset to a token embedding, whose own values are "
        "below 1; far larger ones overflow in the text tower",
    )
    max_image_bytes: int = Field(8 * 2**20, ge=1, description="largest image file")
    max_image_pixels: int = Field(32_000_000, ge=1, description="largest width x height")
    max_files: int = Field(1024, ge=1, description="most image files in one upload")
    owner_image_bytes: int = Field(16 * 2**30, ge=1, description="bytes of images per owner")
    owner_images: int = Field(1_000_000, ge=1, description="images per owner")
    owner_sets: int = Field(10_000, ge=1, description="image sets per owner")
    owner_set_images: int = Field(
        5_000_000, ge=1, description="images in all image sets of an owner, 32 bytes each"
    )

    default_logit_vectors_limit: int | None = Field(
        None,
        ge=0,
        le=MAX_LIMIT,
        description="limit on logit vectors (prompts x images) of a new key whose maker says none; "
        "default: no limit",
    )
    default_texts_limit: int | None = Field(
        None,
        ge=0,
        le=MAX_LIMIT,
        description="the same on texts (prompts x classes): the directions in which its images can "
        "be asked about, so the limit that says what leaks; default: no limit",
    )
    default_logits_limit: int | None = Field(
        None,
        ge=0,
        le=MAX_LIMIT,
        description="the same on logits, the numbers that are told; default: no limit",
    )

    queue: int = Field(256, ge=1, description="requests in work at a time before 503")
    queue_texts: int = Field(
        2**20, ge=1, description="texts (prompts x classes) of requests in work before 503"
    )
    key_requests: int = Field(
        64, ge=1, description="metered requests of one key in work at a time before 429"
    )
    requests_per_minute: int = Field(
        0, ge=0, description="calls of one key a minute, on this replica, before 429; 0: any number"
    )
    unpaid_per_second: float = Field(
        50,
        ge=0,
        description="requests of one owner a second that buy nothing (refusals, looks, replays), "
        "on this replica; more wait for a turn, but for a fifth of a second's worth at once, and "
        "as many as it bought lately; 0: any number",
    )
    batching: Literal["deterministic", "merged"] = Field(
        "deterministic",
        description="`merged` encodes prompts of several clients for the same classes in one pass: "
        "faster for small requests, but logits then differ in the last digits by company",
    )
    deadline_s: float = Field(600, gt=0, description="longest wait plus work of one request")
    store_timeout_s: float = Field(
        5,
        gt=0,
        description="longest time of a transaction, connecting and waiting for locks included, and "
        "never more than deadline_s; then not_ready",
    )
    device_stalled_s: float = Field(
        300,
        gt=0,
        description="a device that is at one batch for longer hangs: /livez and /readyz turn red",
    )
    replica: str = Field(
        "",
        max_length=64,
        description="name of this process, the same after a restart, among those that share a "
        "ledger: what it held is given back when it starts again; default: a name of its own",
    )
    hold_s: float = Field(
        900, gt=0, description="a budget hold that nobody settled or released is given back"
    )
    drain_s: float = Field(30, gt=0, description="time for running work at shutdown")
    sweep_s: float = Field(30, gt=0, description="time between sweeps of expired holds")
    audit_s: float = Field(
        3600,
        ge=0,
        description="time between audits of the ledger, which read all of it; 0 switches them off",
    )
    feature_cache: int = Field(200_000, ge=1, description="images whose encoding is kept in memory")
    feature_disk_images: int = Field(
        2_000_000,
        ge=0,
        description="images whose encoding is kept in features.db in data_dir; 0 switches it off",
    )
    resident_images: int = Field(
        100_000, ge=0, description="images whose encoding stays on the device, as whole sets"
    )
    reply_bytes: int = Field(
        2**20, ge=0, description="replies up to this size are stored for replay, else recomputed"
    )
    stub_seconds_per_query: float = Field(
        0, ge=0, description="time per prompt of `--model stub`, which has no model at all"
    )
    encode_batch: int = Field(64, ge=1, description="images per pass of the image tower")
    decode_workers: int = Field(
        0, ge=0, description="threads that decode images; 0 takes one per CPU"
    )
    uploads: int = Field(
        4, ge=1, description="uploads read at a time, each up to max_body_bytes; others wait"
    )

    @property
    def store_wait_s(self) -> float:
        """Longest time of a transaction, and of the wait for a thread to make it."""
        return min(self.store_timeout_s, self.deadline_s)

    @field_validator("host", "metrics_host")
    @classmethod
    def _without_brackets(cls, host: str) -> str:
        """`[::1]`, as URLs have it, is the address `::1`."""
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @property
    def resolved_database_url(self) -> URL:
        """The ledger's URL, with default, driver and password filled in.

        Raises:
            ValueError: `database_url` is no URL.
        """
        if self.database_url is None:
            return URL.create("sqlite", database=str(self.data_dir.absolute() / "craft.db"))
        try:
            url = make_url(self.database_url)
        except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
            raise ValueError(
                f"database_url cannot be used: it is no URL; it is like {DATABASE_EXAMPLES}"
            ) from error
        if url.drivername in _POSTGRES:
            url = url.set(drivername="postgresql+psycopg")
        if self.database_password is not None and url.password is None:
            url = url.set(password=self.database_password.get_secret_value())
        return url

    @property
    def default_limits(self) -> OtherLimits:
        """The limits of a new key whose maker does not say them."""
        return {
            "logit_vectors_limit": self.default_logit_vectors_limit,
            "texts_limit": self.default_texts_limit,
            "logits_limit": self.default_logits_limit,
        }

    @property
    def image_place(self) -> Path | str:
        """Where image bytes lie, by their digest: a folder or a URL."""
        return self.image_url or self.data_dir / "images"
