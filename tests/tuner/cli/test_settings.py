"""Flags win over environment, environment over file; what nobody knows is refused."""

import pytest

from craft_tuner.config.fit_config import build
from craft_tuner.config.settings import ENVIRONMENT, Settings, gather, misspelt, parse_assignments
from craft_tuner.errors import UsageError

FILE = """
server = "http://file.test"
key = "craft_file"
timeout_s = 5
preset = "digits"
shots = 8
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "craft.toml"
    path.write_text(FILE)
    return path


def test_flags_win_over_environment_and_environment_over_file(file):
    environ = {"CRAFT_SERVER_URL": "http://env.test", "CRAFT_API_KEY": "craft_env"}
    found = gather({"server": "http://flag.test", "key": None}, environ=environ, config=file)
    connection = found.settings.connection()
    assert connection.url == "http://flag.test"
    assert connection.key == "craft_env"
    assert connection.timeout_s == 5


def test_empty_variables_count_as_not_set(file):
    found = gather({}, environ={"CRAFT_SERVER_URL": ""}, config=file)
    assert found.settings.server == "http://file.test"


def test_the_rest_of_the_file_is_the_fits(file):
    fit = gather({}, environ={}, config=file).fit
    assert build(fit).shots == 8
    assert build(fit).preset == "digits"


def test_the_environment_may_hold_settings_of_the_fit(file):
    environ = {"CRAFT_FIT_SHOTS": "4", "CRAFT_FIT_BOUND": "none", "CRAFT_FIT_SIGMA": ""}
    found = gather({}, environ=environ, config=file)
    config = build(found.fit, found.fit_environment, {"seed": 2})
    assert (config.preset, config.shots, config.bound, config.sigma) == ("digits", 4, None, 1.0)
    with pytest.raises(UsageError, match="no setting is called shot; did you mean shots"):
        build(gather({}, environ={"CRAFT_FIT_SHOT": "4"}).fit_environment)


def test_a_key_of_the_file_that_nobody_knows_is_refused(file):
    file.write_text(FILE + 'serve = "x"\n')
    with pytest.raises(UsageError, match="no setting is called serve"):
        build(gather({}, environ={}, config=file).fit)


def test_without_an_address_it_is_this_machine_or_the_runs(file):
    settings = Settings.model_validate({"key": "craft_x"})
    assert settings.connection().url == "http://127.0.0.1:8000"
    assert settings.connection("http://run.test").url == "http://run.test"


def test_an_address_that_is_given_and_empty_is_not_this_machine():
    found = gather({"server": "", "key": "craft_x"}, environ={})
    assert found.settings.connection("http://run.test").url == ""


def test_without_a_key_the_sentence_says_how_to_give_one():
    with pytest.raises(UsageError, match=r"no API key for http://.*--key or CRAFT_API_KEY"):
        Settings().connection()


def test_the_key_is_not_shown_by_accident():
    settings = Settings.model_validate({"key": "craft_secret"})
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"CRAFT_TIMEOUT_S": "soon"}, "'soon' of the environment: .*--timeout, CRAFT_TIMEOUT_S or"),
        ({"CRAFT_TIMEOUT_S": "-1"}, "greater than 0"),
        ({"CRAFT_TIMEOUT_S": "nan"}, "'nan' of the environment: "),
        ({"CRAFT_TIMEOUT_S": "inf"}, "less than or equal to 86400"),
        ({"CRAFT_TIMEOUT_S": "1e99"}, "less than or equal to 86400"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_all_places_to_set_it(environ, words):
    with pytest.raises(UsageError, match=words):
        gather({}, environ=environ)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("timeout_s = []", r"timeout_s = \[\] of the file"),
        ("server = 5", "server = 5 of the file"),
        ("model = {}", "model = {} of the file"),
        ("track = 1979-05-27", "track = datetime.*of the file"),
        ("allow_outside = [5]", r"allow_outside = \[5\] of the file"),
        ("key = 5", "key of the file"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_file(tmp_path, line, words):
    path = tmp_path / "craft.toml"
    path.write_text(line)
    with pytest.raises(UsageError, match=words) as refusal:
        gather({}, environ={}, config=path)
    assert "\n" not in str(refusal.value)


def test_a_key_that_is_refused_is_not_repeated(tmp_path):
    path = tmp_path / "craft.toml"
    path.write_text('key = ["craft_secret"]')
    with pytest.raises(UsageError, match="key of the file") as refusal:
        gather({}, environ={}, config=path)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CRAFT_SERVR_URL", "CRAFT_SERVER_URL"),
        ("CRAFT_SERVER_URI", "CRAFT_SERVER_URL"),
        ("CRAFT_SERVER", "CRAFT_SERVER_URL"),
        ("CRAFTSERVER_URL", "CRAFT_SERVER_URL"),
        ("craft_server_url", "CRAFT_SERVER_URL"),
        ("CRAFT_KEY", "CRAFT_API_KEY"),
        ("CRAFT_API_KEYS", "CRAFT_API_KEY"),
        ("CRAFT_TIMEOUT", "CRAFT_TIMEOUT_S"),
        ("CRAFT_MODELS", "CRAFT_MODEL"),
        ("CRAFT_TRACKER", "CRAFT_TRACK"),
        ("CRAFT_OUTSIDE", "CRAFT_ALLOW_OUTSIDE"),
        *((known, None) for known in ENVIRONMENT.values()),
        ("CRAFT_SERVER_PORT", None),
        ("CRAFT_SERVER_MODEL", None),
        ("CRAFT_SERVER_DATABASE_URL", None),
        ("CRAFT_HOME", None),
        ("CRAFT", None),
        ("CRAFT_FIT_SIGMA", None),
        ("AIRCRAFT_MODEL", None),
        ("MODEL", None),
    ],
)
def test_a_misspelt_variable_has_its_nearest_name(variable, meant):
    assert misspelt({variable: "x"}) == ({variable: meant} if meant else {})


def test_every_setting_has_a_variable():
    assert set(ENVIRONMENT) == set(Settings.model_fields)


def test_a_file_that_cannot_be_read_or_is_no_toml_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the configuration .*none\.toml: No such"):
        gather({}, environ={}, config=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("shots: 8")
    with pytest.raises(UsageError, match=r"bad\.toml is not TOML"):
        gather({}, environ={}, config=tmp_path / "bad.toml")


def test_assignments_are_toml_where_they_are_toml():
    given = ["sigma=0.5", "flip = false", "crop_scale=[0.6, 1.0]", "bound=none", "context=a scan"]
    assert parse_assignments(given) == {
        "sigma": 0.5,
        "flip": False,
        "crop_scale": [0.6, 1.0],
        "bound": "none",
        "context": "a scan",
    }


@pytest.mark.parametrize("assignment", ["sigma", "=5", "sigma="])
def test_an_assignment_of_another_form_is_refused(assignment):
    with pytest.raises(UsageError, match="needed: --set NAME=VALUE"):
        parse_assignments([assignment])
