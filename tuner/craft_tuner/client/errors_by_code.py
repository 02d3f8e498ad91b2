"""The error of each code that a server answers with, and what a user can do about it.

Owns the table from the codes of problem documents to exceptions.
"""

from craft_shared.errors import Code, Problem
from craft_tuner.errors import (
    AccessDenied,
    BudgetExhausted,
    CraftTunerError,
    NoSuchCall,
    RunError,
    ServerUnreachable,
    UsageError,
)

_OTHER_KEY = "use another key (--key or CRAFT_API_KEY), or ask the server's owner"
_REPORT = "this is a fault of one of the two programs: compare their versions and report it"
_AGAIN = "start the command again: images are uploaded anew and nothing is paid twice"

_ERRORS: dict[str, tuple[type[CraftTunerError], str]] = {
    Code.INVALID_KEY: (
        AccessDenied,
        "give a valid key with --key or CRAFT_API_KEY (see `craft-server keys create`)",
    ),
    Code.SCOPE_DENIED: (AccessDenied, _OTHER_KEY),
    Code.MODEL_DENIED: (AccessDenied, _OTHER_KEY),
    Code.PROMPT_KIND_DENIED: (
        AccessDenied,
        "the server's owner switched these prompts off; choose another --method",
    ),
    Code.CLASS_NAMES_DENIED: (
        AccessDenied,
        "use the classes that the key is for, or ask the server's owner for another key",
    ),
    Code.BUDGET_EXHAUSTED: (
        BudgetExhausted,
        "lower --budget, or ask the server's owner for more (`craft-server keys set-budget`)",
    ),
    Code.NOT_FOUND: (NoSuchCall, _REPORT),
    Code.METHOD_NOT_ALLOWED: (NoSuchCall, _REPORT),
    Code.UNKNOWN_MODEL: (UsageError, "name a model that the server has with --model"),
    Code.UNKNOWN_IMAGE: (RunError, _AGAIN),
    Code.UNKNOWN_IMAGE_SET: (RunError, _AGAIN),
    Code.TOO_LARGE: (UsageError, "send less at once, or ask the server's owner for more room"),
    Code.UNDECODABLE_IMAGE: (UsageError, "replace the image or take it out of the dataset"),
    Code.TOO_MANY_TOKENS: (UsageError, "shorten the class names or the context"),
    Code.IDEMPOTENCY_KEY_REUSED: (
        RunError,
        "the run asked another question under the same name; start a new run",
    ),
    Code.INTERNAL: (ServerUnreachable, "try again, and show the request's id to its owner"),
}
_FALLBACK: tuple[type[CraftTunerError], str] = (ServerUnreachable, _REPORT)


def error_of(problem: Problem) -> CraftTunerError:
    """The error for a problem document: the server's words, then what to do about it."""
    kind, advice = _ERRORS.get(problem.code, _FALLBACK)
    request = f" (request {problem.request_id})" if problem.request_id else ""
    return kind(f"{problem.title}: {problem.detail}; {advice}{request}", param=problem.param)
