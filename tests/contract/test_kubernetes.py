"""The manifests are valid to Kubernetes' own schemas, and say what the server's settings say."""

import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from craft_server.observability.metrics import Metrics
from craft_server.settings import Settings
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.34")
KUSTOMIZE = next(
    (
        [path, *more]
        for name, *more in (["kubectl", "kustomize"], ["kustomize", "build"])
        if (path := shutil.which(name))
    ),
    None,
)
needs_kustomize = pytest.mark.skipif(
    KUSTOMIZE is None, reason="neither kubectl nor kustomize is installed"
)


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def base():
    """What the base consists of, before kustomize adds labels and names."""
    kustomization = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    files = [FOLDER / "base" / name for name in kustomization["resources"]]
    assert {path.name for path in (FOLDER / "base").iterdir()} == {
        "kustomization.yaml",
        *(path.name for path in files),
    }
    return [document for path in files for document in documents(path.read_text())]


def rendered(*, folder="example"):
    """Manifests as kustomize makes them, in its order."""
    done = subprocess.run(
        [*KUSTOMIZE, FOLDER / folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def the(kind, found):
    return next(document for document in found if document["kind"] == kind)


def pod(found):
    return the("Deployment", found)["spec"]["template"]["spec"]


def settings_of(literals):
    values = {
        name.removeprefix("CRAFT_SERVER_").lower(): value
        for name, value in literals.items()
        if name.startswith("CRAFT_SERVER_")
    }
    return Settings(**values)


def base_settings():
    kustomization = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
    [generator] = kustomization["configMapGenerator"]
    return settings_of(dict(each.split("=", 1) for each in generator["literals"]))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_base_is_valid(version):
    found = base()
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)
    assert {document["kind"] for document in found} == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }


def test_a_manifest_that_is_wrong_is_found():
    wrong = the("Deployment", base())
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_containers_are_as_the_image_wants_them_and_can_write_nothing_but_volumes():
    spec = pod(base())
    assert spec["securityContext"]["runAsNonRoot"] is True
    user = spec["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in (ROOT / "Dockerfile").read_text()
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"] + spec["initContainers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        mounted = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounted["/run/secrets"]["readOnly"] is True
        assert {mount["name"] for mount in mounted.values()} == {
            volume["name"] for volume in spec["volumes"]
        }


def test_a_replica_that_stops_has_time_to_drain_after_requests_have_stopped_coming():
    spec, settings = pod(base()), base_settings()
    [_, pause] = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert int(pause) >= 5
    assert spec["terminationGracePeriodSeconds"] >= int(pause) + settings.drain_s + 10


def test_ports_probes_and_services_meet_the_settings():
    found, settings = base(), base_settings()
    container = pod(found)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "metrics": settings.metrics_port}
    asked = {
        name: tuple(container[f"{name}Probe"]["httpGet"].values())
        for name in ("startup", "liveness", "readiness")
    }
    assert asked == {
        "startup": ("/readyz", "metrics"),
        "liveness": ("/livez", "metrics"),
        "readiness": ("/readyz", "metrics"),
    }
    services = [document for document in found if document["kind"] == "Service"]
    targets = [port["targetPort"] for each in services for port in each["spec"]["ports"]]
    assert targets == ["http", "metrics"]
    [scraped] = [each for each in services if each["metadata"].get("annotations")]
    assert scraped["metadata"]["annotations"]["prometheus.io/port"] == str(settings.metrics_port)


def test_replicas_upgrade_nothing_and_are_named_after_their_pods():
    spec = pod(base())
    assert base_settings().migrate is False
    assert spec["initContainers"][0]["args"] == ["craft-server", "db", "upgrade"]
    [replica] = spec["containers"][0]["env"]
    assert replica == {
        "name": "CRAFT_SERVER_REPLICA",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
    }


def test_the_password_is_a_file_where_the_server_looks_for_it():
    [secret] = [each["secret"] for each in pod(base())["volumes"] if "secret" in each]
    [item] = secret["items"]
    assert item["path"] == "craft_server_database_password"
    assert item["path"].removeprefix("craft_server_") in Settings.model_fields


def test_the_metric_that_replicas_are_counted_by_exists():
    rules = yaml.safe_load((FOLDER / "components/queue-time/prometheus-adapter.yaml").read_text())
    [rule] = rules["rules"]["custom"]
    names = {metric.name for metric in Metrics("stub").registry.collect()}
    assert "craft_queue_seconds" in names
    assert rule["seriesQuery"].startswith("craft_queue_seconds_count")
    patch = (FOLDER / "components/queue-time/kustomization.yaml").read_text()
    assert f"name: {rule['name']['as']}" in patch


@needs_kustomize
@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_is_valid(version):
    found = rendered()
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)
    assert len(found) == 8


@needs_kustomize
def test_the_example_runs_on_a_database_a_bucket_and_an_image_of_its_own():
    found = rendered()
    config = the("ConfigMap", found)
    settings = settings_of(config["data"])
    assert settings.database_url.startswith("postgresql+psycopg://craft@")
    assert settings.image_url.startswith("s3://")
    for container in pod(found)["containers"] + pod(found)["initContainers"]:
        assert container["image"].startswith("registry.example.org/craft-server:")
        assert container["envFrom"][0]["configMapRef"]["name"] == config["metadata"]["name"]


@needs_kustomize
def test_with_prometheus_replicas_are_counted_by_waiting_time_and_without_by_cpu():
    [metric] = the("HorizontalPodAutoscaler", rendered())["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "craft_queue_seconds_mean"
    [metric] = the("HorizontalPodAutoscaler", rendered(folder="base"))["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"


@needs_kustomize
def test_the_component_for_gpus_asks_for_one_each(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    example = tmp_path / "kubernetes" / "example" / "kustomization.yaml"
    text = example.read_text()
    assert "# - ../components/gpu" in text
    example.write_text(text.replace("# - ../components/gpu", "  - ../components/gpu"))
    found = rendered(folder=example.parent)
    for document in found:
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)
    assert pod(found)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert settings_of(the("ConfigMap", found)["data"]).device == "cuda"
    assert "nvidia.com/gpu" not in pod(found)["initContainers"][0]["resources"]["limits"]


@pytest.mark.parametrize("proxy", ["deploy/nginx/tls.conf", "deploy/nginx.conf"])
def test_nginx_takes_the_bodies_and_bears_the_waits_that_the_server_does(proxy):
    directives = dict(
        line.split("#")[0].strip().rstrip(";").split(None, 1)
        for line in (ROOT / proxy).read_text().splitlines()
        if line.split("#")[0].strip().endswith(";") and len(line.split()) > 1
    )
    settings = Settings()
    assert directives["client_max_body_size"] == f"{settings.max_body_bytes // 2**20}m"
    assert int(directives["proxy_read_timeout"].removesuffix("s")) > settings.deadline_s
    assert directives["proxy_buffering"] == "off"


def test_the_ingress_has_the_same_limits():
    ingress = yaml.safe_load((FOLDER / "components/ingress/ingress.yaml").read_text())
    notes = {
        name.removeprefix("nginx.ingress.kubernetes.io/"): value
        for name, value in ingress["metadata"]["annotations"].items()
    }
    settings = Settings()
    assert notes["proxy-body-size"] == f"{settings.max_body_bytes // 2**20}m"
    assert int(notes["proxy-read-timeout"]) > settings.deadline_s
    assert notes["proxy-buffering"] == "off"
    assert ingress["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/v1"
