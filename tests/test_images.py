"""The Dockerfile, the compose file and what they promise; the image is really built where a Docker Engine answers."""

import json
import re
import subprocess
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings
from tests.support.container_servers import IMAGES, docker_answers
from tests.support.import_rule import PACKAGES

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load((ROOT / "prometheus.yml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def minor_version(text: str) -> int:
    found = re.search(r"3\.(\d+)", text)
    assert found, text
    return int(found[1])


def with_defaults(text: str) -> str:
    return re.sub(r"\$\{\w+:-(\w*)\}", r"\1", text)


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
    assert allowed <= PACKAGES | {"main.py", "migrations", "requirements.txt"}
    ours = {name for name in PACKAGES if (ROOT / name).is_dir()}
    assert ours | {"main.py", "migrations", "requirements.txt"} <= allowed | {"dashboard"}


def pins_of(name: str) -> dict[str, list[str]]:
    """The hashes of each line of a compiled file, by the requirement with its marker."""
    joined = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    requirements = [line.split(" --hash=") for line in joined.splitlines() if line]
    return {" ".join(requirement.split()): hashes for requirement, *hashes in requirements}


def test_the_serving_requirements_hold_no_test_or_training_library() -> None:
    pins = {line.partition("==")[0] for line in pins_of("requirements.txt")}
    offline = {"scipy", "implicit", "pyarrow", "spotipy"}
    assert pins.isdisjoint({"pytest", "hypothesis", "testcontainers", "mypy", "ruff"} | offline)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
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
    assert "pip install --quiet --require-hashes -r requirements.txt" in install
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^PIP_INSTALL := .*", makefile, re.MULTILINE)[0].endswith("--require-hashes")
    by_pip = [line for line in makefile.splitlines() if " -m pip " in line and "--version" not in line]
    assert by_pip
    assert all("$(PIP_INSTALL)" in line for line in by_pip)


# --- docker-compose.yml ---


def test_compose_brings_everything_that_the_worker_needs() -> None:
    assert SERVICES.keys() == {"mysql", "redis", "rabbitmq", "migrate", "worker", "prometheus"}


@pytest.mark.parametrize("name", ["mysql", "redis", "rabbitmq"])
def test_the_worker_waits_until_its_servers_are_healthy(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES["worker"]["depends_on"][name] == {"condition": "service_healthy"}


def test_the_worker_starts_after_the_migrations_succeeded() -> None:
    assert SERVICES["migrate"]["command"] == ["migrate"]
    assert SERVICES["worker"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_the_tests_run_on_the_images_that_compose_runs() -> None:
    assert {SERVICES[name]["image"] for name in ("mysql", "redis", "rabbitmq")} == set(IMAGES.values())


@pytest.mark.parametrize("name", ["migrate", "worker"])
def test_the_programs_environment_is_valid_settings(name: str) -> None:
    environment: dict[str, str | None] = SERVICES[name]["environment"]
    assert {variable.lower() for variable in environment} <= Settings.model_fields.keys()
    given = {variable.lower(): with_defaults(value) for variable, value in environment.items() if value is not None}
    settings = Settings.model_validate(given)
    assert settings.broker_url.get_secret_value() == "amqp://songs:songs@rabbitmq:5672/"
    assert settings.database_url.get_secret_value() == "mysql://songs:songs@mysql:3306/songs"
    assert settings.redis_url.get_secret_value() == "redis://redis:6379/0"


def test_the_credentials_in_the_urls_are_those_that_the_servers_are_given() -> None:
    urls = SERVICES["worker"]["environment"]
    mysql, rabbitmq = SERVICES["mysql"]["environment"], SERVICES["rabbitmq"]["environment"]
    assert (
        f"{mysql['MYSQL_USER']}:{mysql['MYSQL_PASSWORD']}@mysql:3306/{mysql['MYSQL_DATABASE']}" in urls["DATABASE_URL"]
    )
    assert f"{rabbitmq['RABBITMQ_DEFAULT_USER']}:{rabbitmq['RABBITMQ_DEFAULT_PASS']}@rabbitmq" in urls["BROKER_URL"]


def test_no_password_is_written_down_where_env_cannot_change_it() -> None:
    given = [
        value
        for service in SERVICES.values()
        for variable, value in service.get("environment", {}).items()
        if "PASS" in variable or "KEY" in variable
    ]
    assert given
    assert all(value is None or value.startswith("${") for value in given)


def test_redis_keeps_an_append_only_file_on_a_volume() -> None:
    assert "--appendonly yes" in " ".join(SERVICES["redis"]["command"])
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]


def test_what_is_published_is_published_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_worker_is_given_the_time_that_it_takes_to_drain() -> None:
    grace_s = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["shutdown_grace_s"].default


def test_the_programs_containers_cannot_write_or_gain_rights() -> None:
    for name in ("migrate", "worker"):
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_prometheus_scrapes_the_port_that_the_worker_serves() -> None:
    [songs_ai] = [job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "songs-ai"]
    [discovery] = songs_ai["dns_sd_configs"]
    assert discovery["names"] == ["worker"]
    assert discovery["port"] == int(SERVICES["worker"]["environment"]["HTTP_PORT"])


# --- for real ---


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if not docker_answers():
        pytest.skip("no Docker Engine answers")
    tag = f"songs-ai-test:{uuid.uuid4().hex[:12]}"
    docker("build", "-q", "-t", tag, ".")
    yield tag
    docker("rmi", tag)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_built_image_runs_read_only_and_without_rights(image: str) -> None:
    confined = ["run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none"]
    assert "worker" in docker(*confined, image, "--help")
    assert docker(*confined, "--entrypoint", "id", image, "-u") == "10001"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_built_image_is_small(image: str) -> None:
    base, built = (int(docker("image", "inspect", "-f", "{{.Size}}", name)) for name in ("python:3.13-slim", image))
    assert (built - base) / 1e6 < 350


@pytest.mark.long
@pytest.mark.timeout(600)
def test_docker_compose_accepts_the_file(image: str) -> None:
    assert set(docker("compose", "config", "--services").split()) == SERVICES.keys()
