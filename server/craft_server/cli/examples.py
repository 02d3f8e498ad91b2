"""The examples at the end of each command's help; a test parses every one of them."""


def _examples(*lines: str) -> str:
    """Lines that typer leaves as they are."""
    return "\n".join(["\b", "Examples:", *(f"  craft-server {line}" for line in lines)])


SERVE = _examples(
    "serve",
    "serve --model RN50 --pretrained openai --device cuda --port 8080",
    "serve --data-dir /var/lib/craft --host 0.0.0.0",
)
CHECK = _examples(
    "check",
    "check --model RN50 --pretrained openai --device cuda --load",
    "check --data-dir /var/lib/craft --json",
)
USAGE = _examples(
    "usage --by tag",
    "usage --by run --since 2026-11-01 --export csv --output november.csv",
    "usage --events --key key_3f2a --tag fitness",
)
KEYS_CREATE = _examples(
    "keys create --owner vision-lab --queries 8000 --texts 80000",
    "keys create --owner vision-lab --queries 8000 --expires-at 2030-01-31 --json",
    """keys create --owner guest --queries 100 --policy '{"prompt_kinds": ["text"]}'""",
)
KEYS_CREATE_ADMIN = _examples("keys create-admin --owner alice")
KEYS_LIST = _examples("keys list --owner vision-lab --json")
KEYS_SET_BUDGET = _examples(
    "keys set-budget key_3f2a --queries 16000",
    "keys set-budget key_3f2a --texts 160000 --logit-vectors unlimited",
)
KEYS_CHANGE = _examples(
    "keys change key_3f2a --expires-at never",
    "keys change key_3f2a --policy @policy.json",
)
KEYS_ROTATE = _examples("keys rotate key_3f2a --grace 3600")
KEYS_REVOKE = _examples("keys revoke key_3f2a")
KEYS_LOG = _examples("keys log --key key_3f2a")
DB_STATUS = _examples("db status", "db status --database-url postgresql+psycopg://db/craft --json")
DB_UPGRADE = _examples("db upgrade --data-dir /var/lib/craft")
