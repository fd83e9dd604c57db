"""The Dockerfile, the compose file and what they promise; the image is really built where a Docker Engine answers."""

import json
import re
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_group

from api.access import ALWAYS_OPEN
from api.app import ANSWER_TIMEOUT_S
from config.settings import Settings
from main import app
from tests.support.container_servers import IMAGES, docker_answers
from tests.support.import_rule import PACKAGES

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# What an image may be built with besides, for what the program can then do.
EXTRAS = {f"requirements-{extra}.txt" for extra in ("import", "mlflow", "trace", "train")}
PINNED = [*sorted(path.name for path in ROOT.glob("requirements*.txt")), "dashboard/requirements.txt"]
SERVERS = ("mysql", "redis", "rabbitmq")
ONCE = ("migrate", "demo-catalogue", "first-recommendation")
PROGRAMS = (*ONCE, "worker", "api")
ALL_READY = {
    **dict.fromkeys(SERVERS, "service_healthy"),
    **dict.fromkeys(("migrate", "demo-catalogue"), "service_completed_successfully"),
}
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "prometheus.yml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def minor_version(text: str) -> int:
    found = re.search(r"3\.(\d+)", text)
    assert found, text
    return int(found[1])


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])


def with_defaults(text: str) -> str:
    return re.sub(r"\$\{\w+:-([\w.-]*)\}", r"\1", text)


def redis_options() -> dict[str, str]:
    """What the server of Redis is started with."""
    _, *words = SERVICES["redis"]["command"]
    return dict(zip(words[::2], words[1::2], strict=True))


# --- the Dockerfile ---


def test_the_classic_builder_can_build_the_dockerfile() -> None:
    assert not re.search(r"--mount|<<|COPY\s+--link|^#\s*syntax", DOCKERFILE, re.MULTILINE)


def test_the_image_is_built_in_stages_of_one_base_that_the_project_supports() -> None:
    stages = instructions("FROM")
    assert len(stages) > 1
    [base] = {stage.partition(" ")[0] for stage in stages}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert minor_version(base) >= minor_version(project["requires-python"])


def test_the_program_runs_as_nobody_special() -> None:
    [user] = instructions("USER")
    assert int(user) >= 10_000
    assert DOCKERFILE.index("USER ") < DOCKERFILE.index("ENTRYPOINT ")


def test_the_image_starts_a_worker_that_receives_signals_itself() -> None:
    # the exec form: a shell in between would swallow SIGTERM
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["python", "main.py"]
    assert json.loads(instructions("CMD")[0]) == ["worker"]


def test_the_healthcheck_asks_whether_the_worker_is_alive_not_whether_its_servers_are() -> None:
    [healthcheck] = instructions("HEALTHCHECK")
    assert "/health/live" in healthcheck


def test_the_image_holds_the_program_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert allowed <= PACKAGES | {"main.py", "migrations", "requirements.txt"} | EXTRAS
    ours = {name for name in PACKAGES if (ROOT / name).is_dir()}
    assert ours | {"main.py", "migrations", "requirements.txt"} <= allowed | {"dashboard"}


def test_an_image_can_be_built_with_whatever_the_program_says_is_missing() -> None:
    program = (path for name in PACKAGES - {"dashboard"} for path in (ROOT / name).rglob("*.py"))
    said = {name for path in program for name in re.findall(r"requirements-\w+\.txt", path.read_text(encoding="utf-8"))}
    assert said
    assert said <= EXTRAS <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").replace("!", "").split())


def test_extras_can_be_built_in_together() -> None:
    versions: dict[str, set[str]] = {}
    for name in EXTRAS | {"requirements.txt"}:
        for line in pins_of(name):
            requirement, _, marker = line.partition(" ;")
            versions.setdefault(requirement.partition("==")[0] + marker, set()).add(requirement)
    assert [several for several in versions.values() if len(several) > 1] == []


def test_pip_is_given_each_of_the_files_that_are_named() -> None:
    [install] = [step for step in instructions("RUN") if "pip install" in step]
    [expression] = re.findall(r"\$\(printf .*?\)", install)
    environment = {"REQUIREMENTS": "requirements-train.txt requirements-trace.txt"}
    said = subprocess.run(
        ["/bin/sh", "-c", f"echo {expression}"], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["-r", "requirements-train.txt", "-r", "requirements-trace.txt"]


def pins_of(name: str) -> dict[str, list[str]]:
    """The hashes of each line of a compiled file, by the requirement with its marker."""
    joined = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    requirements = [line.split(" --hash=") for line in joined.splitlines() if line]
    return {" ".join(requirement.split()): hashes for requirement, *hashes in requirements}


def test_the_serving_requirements_hold_no_test_or_training_library() -> None:
    pins = {line.partition("==")[0] for line in pins_of("requirements.txt")}
    offline = {"scipy", "implicit", "pyarrow", "spotipy"}
    assert pins.isdisjoint({"pytest", "hypothesis", "testcontainers", "mypy", "ruff"} | offline)


@pytest.mark.parametrize("name", PINNED)
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    # one line without a hash, and pip refuses the whole file
    assert [line for line, hashes in pins_of(name).items() if "==" not in line or not hashes] == []
    assert all(each.strip().startswith("sha256:") for hashes in pins_of(name).values() for each in hashes)


def test_the_development_requirements_include_the_serving_ones() -> None:
    serving, development = (
        {line.partition(" ;")[0] for line in pins_of(f"requirements{of}.txt")} for of in ("", "-dev")
    )
    assert serving <= development


def test_nothing_is_installed_without_its_hash() -> None:
    [install] = [step for step in instructions("RUN") if "pip install" in step]
    assert "pip install --quiet --require-hashes $(printf -- '-r %s ' ${REQUIREMENTS})" in install
    assert set(instructions("ARG")) == {"REQUIREMENTS=requirements.txt"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^PIP_INSTALL := .*", makefile, re.MULTILINE)[0].endswith("--require-hashes")
    by_pip = [line for line in makefile.splitlines() if " -m pip " in line and "--version" not in line]
    assert by_pip
    assert all("$(PIP_INSTALL)" in line for line in by_pip)


# --- docker-compose.yml ---


def test_compose_brings_the_whole_site() -> None:
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {*SERVERS, *ONCE, "worker", "api"}
    observability = {name for name, service in SERVICES.items() if service.get("profiles") == ["observability"]}
    assert observability == {"prometheus", "alertmanager", "grafana"}
    assert [name for name, service in SERVICES.items() if service.get("profiles") == ["dashboard"]] == ["dashboard"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_asked_for_its_health_or_ends_by_itself(name: str) -> None:
    service = SERVICES[name]
    if name in ONCE:
        assert service["healthcheck"] == {"disable": True}
        assert service["restart"].startswith("on-failure:")
    else:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert seconds(service["healthcheck"]["timeout"]) <= seconds(service["healthcheck"]["interval"])
        assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_limits_of_memory_cpu_and_processes(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory", "pids"}
    # more than one core is refused where there is but one
    assert 0 < float(with_defaults(limits["cpus"])) <= 1


def test_redis_refuses_writes_long_before_its_container_would_be_killed() -> None:
    options = redis_options()
    assert options["--maxmemory-policy"] == "noeviction"
    assert SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"] == "1G"
    # a rewrite of its file may copy what is written meanwhile
    assert int(options["--maxmemory"].removesuffix("mb")) <= 0.65 * 1024


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_gains_rights_that_it_was_not_started_with(name: str) -> None:
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize(
    ("name", "waits_for"),
    [
        ("migrate", {"mysql": "service_healthy"}),
        ("demo-catalogue", {"migrate": "service_completed_successfully"}),
        ("worker", ALL_READY),
        ("api", ALL_READY),
        ("first-recommendation", {"worker": "service_healthy"}),
        ("grafana", {"prometheus": "service_healthy"}),
        ("dashboard", {"api": "service_healthy"}),
    ],
)
def test_services_start_in_the_order_of_their_needs(name: str, waits_for: dict[str, str]) -> None:
    found = {needed: how["condition"] for needed, how in SERVICES[name]["depends_on"].items()}
    assert found == waits_for


def test_compose_builds_with_the_requirements_that_it_is_given() -> None:
    build = SERVICES["worker"]["build"]
    assert build["args"].keys() == {"REQUIREMENTS"}
    assert {f"REQUIREMENTS={with_defaults(build['args']['REQUIREMENTS'])}"} == set(instructions("ARG"))
    assert [name for name in PROGRAMS if "build" in SERVICES[name]] == ["worker"]


def test_one_shots_and_servings_are_commands_of_the_program() -> None:
    commands = {SERVICES[name]["command"][0] for name in PROGRAMS}
    assert commands == {*ONCE, "worker", "api"}
    assert commands <= set(get_group(app).commands)


def test_two_workers_share_no_port_of_the_machine() -> None:
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert "ports" not in SERVICES["worker"]
    assert "container_name" not in SERVICES["worker"]


def test_no_two_services_publish_the_same_port_and_none_to_others_than_this_machine() -> None:
    published = [port.split(":") for service in SERVICES.values() for port in service.get("ports", [])]
    assert {address for address, _, _ in published} == {"127.0.0.1"}
    ports = [port for _, port, _ in published]
    assert len(ports) == len(set(ports))


def test_the_healthcheck_of_what_serves_needs_no_api_key() -> None:
    for name in ("worker", "api"):
        command = SERVICES[name]["healthcheck"]["test"][-1]
        [port, path] = re.findall(r"127\.0\.0\.1:(\d+)(/[a-z/]+)", command)[0]
        assert port == SERVICES[name]["environment"]["HTTP_PORT"]
        assert path in ALWAYS_OPEN


def test_every_mounted_file_is_there_and_none_can_be_written() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", []) if volume[0] in "./"]
    assert mounted
    for volume in mounted:
        path, _, rest = volume.partition(":")
        assert (ROOT / path).exists(), path
        assert rest.endswith(":ro")


def test_every_volume_is_named_and_what_is_named_is_used() -> None:
    used = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume[0] not in "./"
    }
    assert used == COMPOSE["volumes"].keys()


def test_the_tests_run_on_the_images_that_compose_runs() -> None:
    assert {SERVICES[name]["image"] for name in SERVERS} == set(IMAGES.values())


def test_every_image_is_of_a_version() -> None:
    foreign = {service["image"] for service in SERVICES.values() if service.get("pull_policy") != "never"}
    assert len(foreign) > 5
    assert all(re.search(r":v?\d", image) for image in foreign)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_environment_is_valid_settings(name: str) -> None:
    environment: dict[str, str | None] = SERVICES[name]["environment"]
    withheld = {"MYSQL_ROOT_PASSWORD", "GRAFANA_PASSWORD"}
    assert {variable.lower() for variable in environment.keys() - withheld} <= Settings.model_fields.keys()
    assert {environment[name] for name in withheld} == {""}
    given = {variable.lower(): with_defaults(value) for variable, value in environment.items() if value is not None}
    settings = Settings.model_validate(given)
    assert settings.broker_url.get_secret_value() == "amqp://songs:songs@rabbitmq:5672/"
    assert settings.database_url.get_secret_value() == "mysql://songs:songs@mysql:3306/songs"
    assert settings.redis_url.get_secret_value() == "redis://:songs@redis:6379/0"


def test_the_credentials_in_the_urls_are_those_that_the_servers_are_given() -> None:
    urls = SERVICES["worker"]["environment"]
    mysql, rabbitmq, redis = (SERVICES[name]["environment"] for name in ("mysql", "rabbitmq", "redis"))
    assert (
        f"{mysql['MYSQL_USER']}:{mysql['MYSQL_PASSWORD']}@mysql:3306/{mysql['MYSQL_DATABASE']}" in urls["DATABASE_URL"]
    )
    assert f"{rabbitmq['RABBITMQ_DEFAULT_USER']}:{rabbitmq['RABBITMQ_DEFAULT_PASS']}@rabbitmq" in urls["BROKER_URL"]
    assert f":{redis['REDISCLI_AUTH']}@redis" in urls["REDIS_URL"]
    assert redis_options()["--requirepass"] == redis["REDISCLI_AUTH"]


def test_every_secret_comes_from_env_and_only_the_demonstrations_word_stands_in_the_file() -> None:
    given = [
        value
        for service in SERVICES.values()
        for variable, value in service.get("environment", {}).items()
        if re.search("PASS|KEY|AUTH|TOKEN|SECRET", variable)
    ]
    assert len(given) > 5
    assert all(not value or re.fullmatch(r"\$\{[A-Z_]+:-songs\}", value) for value in given)


def test_redis_keeps_an_append_only_file_on_a_volume() -> None:
    assert "--appendonly yes" in " ".join(SERVICES["redis"]["command"])
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]


def test_the_worker_is_given_the_time_that_it_takes_to_drain() -> None:
    grace_s = seconds(SERVICES["worker"]["stop_grace_period"])
    assert grace_s > Settings.model_fields["shutdown_grace_s"].default


def test_the_api_is_given_the_time_of_the_answers_that_it_owes() -> None:
    assert seconds(SERVICES["api"]["stop_grace_period"]) >= ANSWER_TIMEOUT_S + 10


@pytest.mark.parametrize("name", [*PROGRAMS, "dashboard"])
def test_the_programs_containers_cannot_write(name: str) -> None:
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_the_page_finds_the_api_and_the_workers_and_is_asked_where_it_listens() -> None:
    page, port = SERVICES["dashboard"], SERVICES["worker"]["environment"]["HTTP_PORT"]
    given = page["environment"]
    assert given == {"API_URL": f"http://api:{port}", "METRICS_URL": f"http://worker:{port}/metrics", "API_KEY": None}
    dockerfile = (ROOT / page["build"] / "Dockerfile").read_text(encoding="utf-8")
    listens = json.loads(re.findall(r"^ENTRYPOINT (.*)", dockerfile, re.MULTILINE)[0])
    assert listens[-2:] == ["--server.port", page["ports"][0].rpartition(":")[2]]
    assert f":{listens[-1]}/" in page["healthcheck"]["test"][-1]


def test_the_pages_image_is_built_like_the_programs() -> None:
    dockerfile = (ROOT / "dashboard" / "Dockerfile").read_text(encoding="utf-8")
    bases, users = (set(re.findall(rf"^{of} (\S+)", dockerfile, re.MULTILINE)) for of in ("FROM", "USER"))
    assert bases == {stage.partition(" ")[0] for stage in instructions("FROM")}
    assert users == set(instructions("USER"))
    assert "pip install --quiet --require-hashes -r requirements.txt" in dockerfile


def test_prometheus_scrapes_the_ports_that_workers_serve() -> None:
    [songs_ai] = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "songs-ai"]
    [discovery] = songs_ai["dns_sd_configs"]
    assert discovery["names"] == ["worker"]
    assert discovery["port"] == int(SERVICES["worker"]["environment"]["HTTP_PORT"])


def test_what_prometheus_names_is_mounted_or_is_a_service() -> None:
    mounts = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in PROMETHEUS["rule_files"]} <= mounts
    static = [entry for job in PROMETHEUS["scrape_configs"] for entry in job.get("static_configs", [])]
    static += [entry for manager in PROMETHEUS["alerting"]["alertmanagers"] for entry in manager["static_configs"]]
    assert {target.partition(":")[0] for entry in static for target in entry["targets"]} <= SERVICES.keys()


# --- for real ---


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if not docker_answers():
        pytest.skip("no Docker Engine answers")
    with built() as tag:
        yield tag


@contextmanager
def built(*arguments: str) -> Iterator[str]:
    tag = f"songs-ai-test:{uuid.uuid4().hex[:12]}"
    docker("build", "-q", "-t", tag, *arguments, ".")
    try:
        yield tag
    finally:
        docker("rmi", tag)


def image_check(image: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    given = [f"{name}={value}" for name, value in variables.items()]
    command = ["make", "image-check", f"IMAGE={image}", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_built_image_runs_read_only_and_without_rights_and_is_small(image: str) -> None:
    done = image_check(image)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{image}: \d+ MB on python:3.13-slim, user 10001\n", done.stdout)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_image_that_is_too_large_or_anothers_fails_the_check(image: str) -> None:
    too_large = image_check(image, IMAGE_MB="10")
    assert (too_large.returncode, "10 MB are allowed" in too_large.stderr) == (2, True)
    assert image_check("python:3.13-slim").returncode == 2


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_image_with_extras_can_fit_and_send_traces() -> None:
    if not docker_answers():
        pytest.skip("no Docker Engine answers")
    with built("--build-arg", "REQUIREMENTS=requirements-train.txt requirements-trace.txt") as tag:
        imports = "import implicit, scipy, opentelemetry.exporter.otlp.proto.http"
        docker("run", "--rm", "--read-only", "--network", "none", "--entrypoint", "python", tag, "-c", imports)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_docker_compose_accepts_the_file(image: str) -> None:
    assert set(docker("compose", "--profile", "*", "config", "--services").split()) == SERVICES.keys()
