"""The manifests of ``deploy/kubernetes``: valid by the servers' own schemas, and true of the program that they run."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_group

from api.app import ANSWER_TIMEOUT_S
from config.settings import Settings
from deploy.kubernetes import generate
from main import app as command_line
from tests.support.http_app import http_bench
from tests.support.kubernetes_manifests import (
    EXAMPLE,
    ROOT,
    VERSIONS,
    Manifest,
    environment,
    manifests,
    problem_of,
    read,
    rendered,
)
from workers.topology import build_topology

MANIFESTS = list(manifests())
BASE_SETTINGS = environment(ROOT / "base" / "settings.env")
EXAMPLE_SETTINGS = environment(EXAMPLE / "settings.env")
EXAMPLE_SECRETS = environment(EXAMPLE / "secrets.example.env")


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def find(name: str, among: list[Manifest] = MANIFESTS) -> Manifest:
    [found] = [manifest for manifest in among if name_of(manifest) == name]
    return found


def pod_of(manifest: Manifest) -> Manifest:
    pod: Manifest = manifest["spec"]["template"]["spec"]
    return pod


def container_of(manifest: Manifest) -> Manifest:
    [container] = pod_of(manifest)["containers"]
    assert isinstance(container, dict)
    return container


WORKER, API, MIGRATE = (
    find(name) for name in ("Deployment/songs-ai-worker", "Deployment/songs-ai-api", "Job/songs-ai-migrate")
)
PROGRAMS = pytest.mark.parametrize("program", [WORKER, API, MIGRATE], ids=name_of)
SERVING = pytest.mark.parametrize("program", [WORKER, API], ids=name_of)


# --- valid ---


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_a_server_would_take_the_manifest(manifest: Manifest, version: str) -> None:
    assert problem_of(manifest, version) is None


@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_a_misspelt_field_would_be_found(manifest: Manifest) -> None:
    wrong = copy.deepcopy(manifest)
    wrong.get("spec", wrong)["specc"] = "x"
    assert problem_of(wrong, VERSIONS[-1]) is not None


def test_a_number_is_no_value_for_keda() -> None:
    wrong = copy.deepcopy(find("ScaledObject/songs-ai-worker"))
    wrong["spec"]["triggers"][0]["metadata"]["value"] = 100
    assert problem_of(wrong, VERSIONS[-1]) is not None


def test_every_file_belongs_to_a_kustomization_and_every_name_in_one_is_a_file() -> None:
    named = set(ROOT.rglob("kustomization.yaml"))
    for kustomization in [*named]:
        said = read(kustomization)
        generated = [*said.get("configMapGenerator", []), *said.get("secretGenerator", [])]
        names = [*said.get("resources", []), *said.get("components", []), *said.get("configurations", [])]
        names += [patch["path"] for patch in said.get("patches", []) if "path" in patch]
        names += [name for each in generated for name in each["envs"]]
        paths = [(kustomization.parent / name).resolve() for name in names]
        assert [path for path in paths if not path.exists()] == []
        files = {path / "kustomization.yaml" if path.is_dir() else path for path in paths}
        named.update(path for path in files if path.is_relative_to(ROOT))
    there = {path for path in ROOT.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert there == named | {Path(generate.__file__)}


# --- as rendered ---


def dashboards_of(site: list[Manifest]) -> list[Manifest]:
    return [each for each in site if "grafana_dashboard" in each["metadata"].get("labels", {})]


@pytest.fixture(scope="module")
def site() -> list[Manifest]:
    found = rendered(EXAMPLE)
    if found is None:
        pytest.skip("neither kubectl nor kustomize is here: the files are checked, not what they are made into")
    return found


def test_a_server_would_take_the_rendered_example(site: list[Manifest]) -> None:
    problems = {name_of(each): problem_of(each, version) for each in site for version in VERSIONS}
    assert len(problems) > len(MANIFESTS)  # the ConfigMap and the Secret came to them
    assert {name: problem for name, problem in problems.items() if problem} == {}


def test_the_base_renders_by_itself(site: list[Manifest]) -> None:
    assert site
    assert {name_of(each) for each in rendered(ROOT / "base") or []} >= {
        name_of(WORKER),
        name_of(API),
        name_of(MIGRATE),
    }


def test_whatever_names_settings_or_secrets_names_those_that_are_made(site: list[Manifest]) -> None:
    made = {each["metadata"]["name"] for each in site if each["kind"] in ("ConfigMap", "Secret")} - {
        each["metadata"]["name"] for each in dashboards_of(site)
    }
    others = json.dumps([each for each in site if each["kind"] not in ("ConfigMap", "Secret")])
    assert set(re.findall(r'"(songs-ai-(?:settings|secrets)[^"]*)"', others)) == made


def test_the_scaler_alone_says_how_many_workers_there_are(site: list[Manifest]) -> None:
    assert "replicas" not in find(name_of(WORKER), site)["spec"]
    assert find(name_of(API), site)["spec"]["replicas"] >= 2


def test_labels_of_ours_do_not_get_into_what_selects_the_pods_of_others(site: list[Manifest]) -> None:
    [rule] = find("NetworkPolicy/songs-ai-names", site)["spec"]["egress"]
    [peer] = rule["to"]
    assert peer["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}


def test_the_example_lets_to_the_servers_and_nowhere_else(site: list[Manifest]) -> None:
    [rule] = find("NetworkPolicy/songs-ai-servers", site)["spec"]["egress"]
    assert rule["to"]


# --- what selects what ---


def labels_of(manifest: Manifest) -> dict[str, str]:
    return {"app.kubernetes.io/name": "songs-ai", **manifest["spec"]["template"]["metadata"]["labels"]}


def is_selected(selector: Manifest, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    expressions: list[Manifest] = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return wanted.items() <= labels.items() and all(labels.get(each["key"]) in each["values"] for each in expressions)


@SERVING
def test_a_deployment_selects_its_own_pods_alone(program: Manifest) -> None:
    selector = program["spec"]["selector"]
    assert [name_of(each) for each in (WORKER, API, MIGRATE) if is_selected(selector, labels_of(each))] == [
        name_of(program)
    ]


@SERVING
def test_a_drain_of_nodes_takes_one_pod_at_a_time(program: Manifest) -> None:
    budget = find(f"PodDisruptionBudget/{program['metadata']['name']}")["spec"]
    assert budget["selector"] == program["spec"]["selector"]
    assert budget["maxUnavailable"] == 1 < program["spec"]["replicas"]


def test_the_service_leads_to_the_api() -> None:
    service = find("Service/songs-ai-api")["spec"]
    assert service["selector"] == API["spec"]["selector"]["matchLabels"]
    [port] = service["ports"]
    assert port["targetPort"] in [each["name"] for each in container_of(API)["ports"]]


def policies(program: Manifest, direction: str) -> Iterator[Manifest]:
    for each in MANIFESTS:
        is_one = each["kind"] == "NetworkPolicy" and direction in each["spec"]["policyTypes"]
        if is_one and is_selected(each["spec"]["podSelector"], labels_of(program)):
            yield each


def ports(program: Manifest, direction: str) -> set[Any]:
    rules = [rule for each in policies(program, direction) for rule in each["spec"].get(direction.lower(), [])]
    return {port["port"] for rule in rules for port in rule["ports"]}


@PROGRAMS
def test_nothing_is_let_in_or_out_that_no_rule_names(program: Manifest) -> None:
    for direction in ("Ingress", "Egress"):
        assert any(direction.lower() not in each["spec"] for each in policies(program, direction))
    servers = {53, 5672, 5671, 3306, 6379}
    # the API embeds too, and migrations ask nobody but the database
    assert ports(program, "Egress") == (servers if program is MIGRATE else servers | {443})


@SERVING
def test_what_may_come_in_comes_to_the_port_of_http(program: Manifest) -> None:
    assert ports(program, "Ingress") == {"http"}
    assert not ports(MIGRATE, "Ingress") - {"http"}


def test_outside_is_not_inside() -> None:
    [rule] = find("NetworkPolicy/songs-ai-outside")["spec"]["egress"]
    [peer] = rule["to"]
    assert {"10.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"} <= set(peer["ipBlock"]["except"])


# --- rights ---


@PROGRAMS
def test_a_pod_is_as_the_restricted_standard_wants_it_and_more(program: Manifest) -> None:
    pod, container = pod_of(program), container_of(program)
    dockerfile = (ROOT.parents[1] / "Dockerfile").read_text(encoding="utf-8")
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(re.findall(r"^USER (\d+)$", dockerfile, re.MULTILINE)[-1]),
        "runAsGroup": pod["securityContext"]["runAsUser"],
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@PROGRAMS
def test_a_pod_has_no_token_and_no_variables_of_services(program: Manifest) -> None:
    pod = pod_of(program)
    assert pod["automountServiceAccountToken"] is False
    assert find("ServiceAccount/songs-ai")["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "songs-ai"
    assert pod["enableServiceLinks"] is False


@PROGRAMS
def test_a_pod_has_bounds_of_memory_and_of_what_it_writes(program: Manifest) -> None:
    assert container_of(program)["resources"]["limits"]["memory"]
    [volume] = pod_of(program)["volumes"]
    assert volume["emptyDir"]["sizeLimit"]
    assert container_of(program)["volumeMounts"] == [{"name": volume["name"], "mountPath": "/tmp"}]  # noqa: S108


def test_no_secret_is_written_down() -> None:
    said = "".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("*") if path.is_file())
    assert not [each for each in MANIFESTS if each["kind"] == "Secret"]
    assert set(re.findall(r"://[^/@\s]*:([^/@\s]*)@", said)) == {"CHANGE-ME"}
    assert {EXAMPLE_SECRETS[name] for name in ("API_KEY", "OPENAI_API_KEY")} <= {"CHANGE-ME", ""}


# --- true of the program ---


@pytest.mark.parametrize("given", [BASE_SETTINGS, EXAMPLE_SETTINGS, EXAMPLE_SECRETS])
def test_every_variable_is_a_setting(given: dict[str, str]) -> None:
    assert given
    assert {name.lower() for name in given} <= Settings.model_fields.keys()
    assert all(name.isupper() for name in given)


def test_the_settings_of_the_example_are_valid() -> None:
    together = {**BASE_SETTINGS, **EXAMPLE_SETTINGS, **EXAMPLE_SECRETS}
    Settings.model_validate({name.lower(): value for name, value in together.items()})


def test_what_is_secret_is_no_setting_of_the_config_map() -> None:
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert {name.lower() for name in (*BASE_SETTINGS, *EXAMPLE_SETTINGS)}.isdisjoint(secrets)
    assert {name.lower() for name in EXAMPLE_SECRETS} <= secrets


@PROGRAMS
def test_a_pod_reads_the_settings_and_the_secrets(program: Manifest) -> None:
    assert container_of(program)["envFrom"] == [
        {"configMapRef": {"name": "songs-ai-settings"}},
        {"secretRef": {"name": "songs-ai-secrets"}},
    ]


@PROGRAMS
def test_a_pod_runs_a_command_that_there_is(program: Manifest) -> None:
    [command] = container_of(program)["args"]
    assert command in get_group(command_line).commands


@SERVING
def test_the_port_is_the_one_that_is_served(program: Manifest) -> None:
    assert container_of(program)["ports"] == [{"name": "http", "containerPort": int(BASE_SETTINGS["HTTP_PORT"])}]
    assert BASE_SETTINGS["HTTP_HOST"] == "0.0.0.0"  # noqa: S104 - of a pod, behind the network rules


@SERVING
async def test_probes_ask_what_is_answered(program: Manifest) -> None:
    container = container_of(program)
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in asked.items()} == {
        "startup": "/health/started",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert {probe["port"] for probe in asked.values()} == {"http"}
    async with http_bench() as bench:
        codes = [(await bench.client.get(probe["path"])).status_code for probe in asked.values()]
    assert 404 not in codes


def test_a_worker_is_given_more_time_than_it_takes_to_drain() -> None:
    grace_s = float(BASE_SETTINGS["SHUTDOWN_GRACE_S"])
    assert grace_s == Settings.model_fields["shutdown_grace_s"].default
    assert pod_of(WORKER)["terminationGracePeriodSeconds"] >= grace_s + 15


def test_the_api_is_given_time_for_the_answers_that_it_owes() -> None:
    waited_s = container_of(API)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod_of(API)["terminationGracePeriodSeconds"] > waited_s + ANSWER_TIMEOUT_S


@SERVING
def test_a_new_version_is_ready_before_an_old_one_goes(program: Manifest) -> None:
    assert program["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


# --- scaling ---


def triggers() -> dict[str, Manifest]:
    return {each["type"]: each for each in find("ScaledObject/songs-ai-worker")["spec"]["triggers"]}


def test_workers_are_scaled_by_the_length_of_their_queue() -> None:
    trigger = triggers()["rabbitmq"]
    assert trigger["metadata"]["queueName"] == build_topology().main.queue
    [reference] = find("TriggerAuthentication/songs-ai-broker")["spec"]["secretTargetRef"]
    assert trigger["authenticationRef"]["name"] == "songs-ai-broker"
    assert reference["key"] in EXAMPLE_SECRETS


def test_workers_are_scaled_by_the_age_of_the_oldest_job() -> None:
    trigger = triggers()["prometheus"]
    page = (ROOT.parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    [name] = re.findall(r"songs_ai_\w+", trigger["metadata"]["query"])
    assert f"`{name}`" in page
    # by AverageValue twice the age would ask for two workers, however many there are
    assert trigger["metricType"] == "Value"


def labels_asked(site: list[Manifest]) -> dict[str, str]:
    [query] = [
        trigger["metadata"]["query"]
        for trigger in find("ScaledObject/songs-ai-worker", site)["spec"]["triggers"]
        if trigger["type"] == "prometheus"
    ]
    return dict(re.findall(r'(\w+)="([^"]*)"', query))


def test_a_site_is_scaled_by_its_own_jobs_where_prometheus_knows_of_another(site: list[Manifest]) -> None:
    namespace = find(name_of(WORKER), site)["metadata"]["namespace"]
    assert labels_asked(site) == {"namespace": namespace, "job": "songs-ai", "route": "main"}


def test_a_copy_of_the_example_asks_for_jobs_of_the_namespace_that_it_names(
    site: list[Manifest], tmp_path: Path
) -> None:
    assert site
    for part in ("kubernetes", "grafana"):
        shutil.copytree(ROOT.parent / part, tmp_path / part)
    kustomization = tmp_path / "kubernetes" / "overlays" / "example" / "kustomization.yaml"
    said = kustomization.read_text(encoding="utf-8")
    kustomization.write_text(said.replace("namespace: songs-ai\n", "namespace: another-site\n"), encoding="utf-8")
    copied = rendered(kustomization.parent) or []
    assert find(name_of(WORKER), copied)["metadata"]["namespace"] == "another-site"
    assert labels_asked(copied)["namespace"] == "another-site"


def test_the_scaler_and_the_pods_agree() -> None:
    scaled = find("ScaledObject/songs-ai-worker")["spec"]
    assert scaled["scaleTargetRef"]["name"] == WORKER["metadata"]["name"]
    assert scaled["minReplicaCount"] == WORKER["spec"]["replicas"]
    window_s = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"][
        "stabilizationWindowSeconds"
    ]
    assert window_s > pod_of(WORKER)["terminationGracePeriodSeconds"]


# --- monitoring ---


async def test_prometheus_scrapes_the_port_and_path_that_are_served() -> None:
    monitor = find("PodMonitor/songs-ai")["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    async with http_bench() as bench:
        assert (await bench.client.get(endpoint["path"])).status_code == 200
    assert endpoint["port"] in [port["name"] for port in container_of(WORKER)["ports"]]
    assert all(is_selected(monitor["selector"], labels_of(program)) for program in (WORKER, API))


def in_prometheus_words(relabeling: Manifest) -> Manifest:
    """A rule of the operator's as Prometheus itself writes it."""
    return {re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name): value for name, value in relabeling.items()}


def discovered(program: Manifest, phase: str) -> dict[str, str]:
    """What Kubernetes' service discovery says of a pod, as far as it counts here."""
    labels = {re.sub(r"\W", "_", name): value for name, value in labels_of(program).items()}
    return {
        "__meta_kubernetes_pod_phase": phase,
        **{f"__meta_kubernetes_pod_label_{name}": value for name, value in labels.items()},
    }


def scraped_as(promtool: str, directory: Path, pod: Mapping[str, str]) -> str | None:
    """The job that Prometheus scrapes such a pod under by the PodMonitor; None where it does not."""
    monitor = find("PodMonitor/songs-ai")["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    # the operator writes its own for jobLabel first
    job_label = f"__meta_kubernetes_pod_label_{re.sub(r'[^a-z]', '_', monitor['jobLabel'])}"
    by_label = {"source_labels": [job_label], "regex": "(.+)", "target_label": "job"}
    path = directory / "prometheus.yml"
    scraping = {
        "job_name": "monitor",
        "static_configs": [{"targets": ["10.0.0.1:8000"], "labels": pod}],
        "relabel_configs": [by_label, *(in_prometheus_words(each) for each in endpoint["relabelings"])],
    }
    path.write_text(json.dumps({"scrape_configs": [scraping]}), encoding="utf-8")
    command = [promtool, "check", "service-discovery", "--timeout=2s", str(path), "monitor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [target] = json.loads(done.stdout)
    return dict(target["labels"])["job"] if target["labels"] else None


@pytest.mark.parametrize(
    ("program", "phase", "job"),
    [
        (WORKER, "Running", "songs-ai"),
        (API, "Running", "songs-ai-api"),
        (WORKER, "Pending", None),
        (API, "Pending", None),
        (WORKER, "Failed", None),
    ],
)
def test_prometheus_knows_what_runs_by_the_names_that_alerts_and_dashboards_ask_for(
    program: Manifest, phase: str, job: str | None, promtool: str, tmp_path: Path
) -> None:
    assert scraped_as(promtool, tmp_path, discovered(program, phase)) == job


def test_the_operator_is_given_the_alerts_that_prometheus_is() -> None:
    assert generate.RULES.read_text(encoding="utf-8") == generate.content(), "run python deploy/kubernetes/generate.py"
    prometheus = yaml.safe_load((generate.ROOT / "prometheus.yml").read_text(encoding="utf-8"))
    alerts = yaml.safe_load((generate.ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    every = {"interval": prometheus["global"]["evaluation_interval"]}
    groups = find("PrometheusRule/songs-ai")["spec"]["groups"]
    here = [
        {**group, "rules": [rule for rule in group["rules"] if rule.get("alert") != generate.NOT_HERE]}
        for group in alerts["groups"]
    ]
    assert groups == [group | every for group in here]
    assert here != alerts["groups"]


def test_the_operators_alerts_ask_for_the_jobs_that_it_scrapes() -> None:
    asked = set(re.findall(r'job="([^"]*)"', json.dumps(find("PrometheusRule/songs-ai")).replace("\\", "")))
    assert asked
    assert asked <= {"songs-ai", "songs-ai-api"}


def test_grafanas_sidecar_finds_every_dashboard_by_its_label(site: list[Manifest]) -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT.parent / "grafana/dashboards").iterdir()}
    found: dict[str, str] = {}
    for each in dashboards_of(site):
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        found |= each["data"]
        # what kubectl apply keeps in an annotation
        assert len(json.dumps(each)) < 256 * 1024
    assert found == files


def test_an_operator_that_selects_by_its_release_takes_what_is_for_it(site: list[Manifest]) -> None:
    for name in ("PodMonitor/songs-ai", "PrometheusRule/songs-ai"):
        found = find(name, site)
        assert found["metadata"]["labels"]["release"]
        assert found["spec"] == find(name)["spec"]
