"""docker-compose.yml, Dockerfile and .env.example agree with the code and with each other."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from craft_server.settings import Settings
from craft_shared.errors import Code, Refusal
from tests.support.paths import ROOT

EXAMPLE = ROOT / ".env.example"
COMPOSE = ROOT / "docker-compose.yml"
SERVERS = ("server", "gpu", "replica")


def services():
    return yaml.safe_load(COMPOSE.read_text())["services"]


def test_the_example_is_fresh(tmp_path):
    fresh = tmp_path / "example"
    command = [sys.executable, "-m", "scripts.write_env", fresh]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert EXAMPLE.read_text() == fresh.read_text(), ".env.example is stale: run `make docs`"


def test_the_example_says_the_defaults_of_every_setting(tmp_path, monkeypatch):
    shown = dict(re.findall(r"^# (CRAFT_SERVER_\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))
    assert {f"CRAFT_SERVER_{name.upper()}" for name in Settings.model_fields} <= shown.keys()
    for name, value in shown.items():
        monkeypatch.setenv(name, value)
    assert Settings() == Settings.model_construct()


def test_the_example_names_every_variable_of_the_compose_file():
    read = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text()))
    assert {name for name in read if f"{name}=" not in EXAMPLE.read_text()} == set()


def test_nobody_runs_as_root_or_writes_to_its_root():
    for name, service in services().items():
        assert service["read_only"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "mem_limit" in service, name
        if name != "postgres":  # its entrypoint steps down itself
            assert service["cap_drop"] == ["ALL"], name
    users = re.findall(r"^USER (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users == ["10001:10001"] * 2


def test_a_server_is_given_longer_to_stop_than_it_takes_to_drain():
    for name in SERVERS:
        grace_s = float(services()[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > Settings.model_fields["drain_s"].default + 5


def test_the_proxy_waits_and_accepts_as_the_server_does():
    configuration = (ROOT / "deploy/nginx.conf").read_text()
    said = dict(re.findall(r"^\s*(\w+) (\w+);", configuration, re.MULTILINE))
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert int(said["client_max_body_size"].removesuffix("m")) * 2**20 == defaults["max_body_bytes"]
    assert float(said["proxy_read_timeout"].removesuffix("s")) > defaults["deadline_s"]


@pytest.mark.parametrize("proxy", ["deploy/nginx.conf", "deploy/nginx/tls.conf"])
def test_what_the_proxy_says_itself_is_of_the_protocol(proxy):
    [said] = re.findall(r"return 503 '(.*)';", (ROOT / proxy).read_text())
    detail = json.loads(said)["detail"]
    problem = Refusal(Code.NOT_READY, detail).problem()
    assert json.loads(said) == problem.model_dump(exclude_none=True)


def test_prometheus_finds_every_server_at_its_port():
    jobs = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    [found] = jobs[0]["dns_sd_configs"]
    assert set(found["names"]) == set(SERVERS)
    for name in SERVERS:
        assert services()[name]["environment"]["CRAFT_SERVER_METRICS_PORT"] == found["port"]


def test_containers_are_healthy_by_the_port_that_clients_cannot_reach():
    dockerfile = (ROOT / "Dockerfile").read_text()
    [port] = re.findall(r"CRAFT_SERVER_METRICS_PORT=(\d+)", dockerfile)
    [asked] = re.findall(r"HEALTHCHECK .*\n +CMD .*", dockerfile)
    assert 'os.environ[\\"CRAFT_SERVER_METRICS_PORT\\"]}/readyz' in asked
    for name in SERVERS:
        environment = services()[name]["environment"]
        assert environment["CRAFT_SERVER_METRICS_PORT"] == int(port)
        assert not any(f":{port}" in each for each in services()[name].get("ports", []))


def test_the_dashboard_asks_for_metrics_that_there_are():
    documented = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE
    )
    file = ROOT / "deploy/grafana/dashboards/craft-server.json"
    panels = json.loads(file.read_text())["panels"]
    asked = {
        re.sub("_(bucket|sum|count)$", "", name)
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:craft|process)_\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked - set(documented) == set()
