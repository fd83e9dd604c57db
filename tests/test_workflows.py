"""The project's own host: workflows, dependabot and pre-commit are valid, pinned, and run what a developer runs."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.container_servers import IMAGES
from tests.support.servers import RECIPES

ROOT = Path(__file__).parents[1]
SCHEMAS = files("check_jsonschema") / "builtin_schemas" / "vendor"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DEPENDABOT = ROOT / ".github" / "dependabot.yml"
PRE_COMMIT = ROOT / ".pre-commit-config.yaml"
# Where GitHub reads YAML 1.2, "on" is a word; PyYAML reads 1.1, where it is true.
ON: Any = True


def read(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if ON in loaded:
        loaded["on"] = loaded.pop(ON)
    return loaded


def problems(document: object, schema: str) -> list[str]:
    known = json.loads((SCHEMAS / f"{schema}.json").read_text(encoding="utf-8"))
    errors = jsonschema.Draft7Validator(known).iter_errors(json.loads(json.dumps(document, default=str)))
    return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in errors]


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in read(workflow)["jobs"].values():
        yield from job["steps"]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_workflow_is_valid(path: Path) -> None:
    assert problems(read(path), "github-workflows") == []


def test_dependabot_is_valid() -> None:
    assert problems(read(DEPENDABOT), "dependabot") == []


def test_what_is_wrong_would_be_found() -> None:
    workflow = read(WORKFLOWS[0])
    job = next(iter(workflow["jobs"].values()))
    job["timeout-minute"] = 5
    assert problems(workflow, "github-workflows") != []
    assert problems({"version": 2, "updates": [{"package-ecosystem": "pypi"}]}, "dependabot") != []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_to_a_commit_and_says_its_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


@pytest.mark.parametrize(
    ("name", "makes"),
    [("ci.yml", {"lint", "test", "docs", "image", "image-check", "audit"}), ("nightly.yml", {"test-long"})],
)
def test_the_workflow_makes_what_can_be_made(name: str, makes: set[str]) -> None:
    runs = "\n".join(step.get("run", "") for step in steps(ROOT / ".github" / "workflows" / name))
    made = set(re.findall(r"^\s*make (\S+)", runs, re.MULTILINE))
    assert made == makes
    assert made <= targets()


def test_the_long_tests_have_the_history_and_the_server_that_they_would_be_skipped_without() -> None:
    job = read(ROOT / ".github" / "workflows" / "nightly.yml")["jobs"]["test-long"]
    [checkout] = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert checkout["fetch-depth"] == 0
    [mariadb] = job["services"].values()
    [port] = [mapping.partition(":")[0] for mapping in mariadb["ports"]]
    assert f"127.0.0.1:{port}" in job["env"]["TEST_VECTOR_DATABASE_URL"]


def test_the_tests_run_beside_the_images_of_compose_and_are_told_where_they_are() -> None:
    job = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]
    assert {service["image"] for service in job["services"].values()} == set(IMAGES.values())
    assert job["env"].keys() == {recipe.variable for recipe in RECIPES.values()}
    for service in job["services"].values():
        [port] = [mapping.partition(":")[0] for mapping in service["ports"]]
        assert any(f"127.0.0.1:{port}" in url for url in job["env"].values())
        assert "--health-cmd" in service["options"]


def test_dependabot_looks_after_all_that_is_pinned() -> None:
    updates = {update["package-ecosystem"]: update for update in read(DEPENDABOT)["updates"]}
    assert updates.keys() == {"uv", "pip", "github-actions", "docker", "docker-compose"}
    assert (ROOT / updates["pip"]["directory"].strip("/") / "constraints.txt").exists()
    assert all(update["schedule"]["interval"] == "weekly" for update in updates.values())
    for ecosystem, file in (("uv", "requirements.txt"), ("docker", "Dockerfile")):
        looked_in = {(ROOT / place.strip("/")).resolve() for place in updates[ecosystem]["directories"]}
        assert {path.parent for path in (*ROOT.glob(file), *ROOT.glob(f"[a-z]*/{file}"))} <= looked_in


def test_a_commit_runs_what_make_runs_and_fetches_nothing() -> None:
    [local] = read(PRE_COMMIT)["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook.keys() >= {"id", "name", "entry", "language", "pass_filenames", "files"}
        assert hook["language"] == "system"
        re.compile(hook["files"])
    assert "make lint" in [hook["entry"] for hook in local["hooks"]]
    assert "lint" in targets()


@pytest.mark.parametrize(
    ("path", "hooks"),
    [
        ("core/taste.py", ["lint"]),
        ("requirements.in", ["pins"]),
        ("dashboard/requirements.txt", ["pins"]),
        ("deploy/airflow/requirements.txt", []),
        ("deploy/prometheus/alerts.yml", ["deployment"]),
        ("deploy/grafana/generate.py", ["lint", "deployment"]),
        ("docker-compose.yml", ["deployment"]),
        ("dashboard/Dockerfile", []),
    ],
)
def test_a_hook_looks_at_the_files_that_it_is_for(path: str, hooks: list[str]) -> None:
    [local] = read(PRE_COMMIT)["repos"]
    assert [each["id"] for each in local["hooks"] if re.search(each["files"], path)] == hooks


def test_hooks_run_tests_that_there_are() -> None:
    [local] = read(PRE_COMMIT)["repos"]
    named = {name for hook in local["hooks"] for name in re.findall(r"tests/\w+\.py", hook["entry"])}
    assert len(named) > 2
    assert [name for name in named if not (ROOT / name).exists()] == []
