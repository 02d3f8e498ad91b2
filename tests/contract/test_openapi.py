"""The OpenAPI document against the running application: schemathesis asks, nothing may fail.

On Postgres, which is the stricter store: it takes no NUL in a text.
"""

import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from craft_server.accounts.identity import Scope
from craft_server.api.routes import ROUTERS
from craft_server.api.services import services_of
from craft_server.app import create_app
from tests.support.databases import fresh_postgres
from tests.support.serving import in_thread, settings_in, stub_box

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

OPERATIONS = [
    f"{method} {route.path}"
    for router in ROUTERS
    for route in router.routes
    for method in sorted(route.methods - {"HEAD"})
]

MODERATE = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    values = settings_in(tmp_path_factory.mktemp("openapi"), database_url=fresh_postgres())
    return create_app(values, stub_box(values))


@pytest.fixture(scope="module")
def url(app):
    with in_thread(app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def keys(app, url):
    """A token for administration and one for all else."""
    made = services_of(app).keys
    admin = made.create("root", 0, scopes=[Scope.ADMIN]).token
    return {True: admin, False: made.create("ann", 10**9).token}


@pytest.fixture(scope="module")
def document(app):
    return schemathesis.openapi.from_dict(app.openapi())


def ask(document, operation, *, url, authorization):
    """Many requests of one operation, valid and not, each answer checked against the document."""
    method, path = operation.split(" ")

    @MODERATE
    @given(case=document[path][method].as_strategy())
    def asked(case):
        case.call_and_validate(
            base_url=url,
            headers={"Authorization": authorization},
            excluded_checks=[positive_data_acceptance],  # not every rule is one of a schema
        )

    asked()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_with_a_key_every_answer_is_as_documented(document, operation, url, keys):
    key = keys["/admin/" in operation]
    ask(document, operation, url=url, authorization=f"Bearer {key}")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_a_key_every_answer_is_as_documented(document, operation, url):
    ask(document, operation, url=url, authorization="Bearer nothing")
