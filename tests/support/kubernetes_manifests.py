"""The manifests of ``deploy/kubernetes`` as files say them, and as ``kubectl kustomize`` renders them where it is."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import referencing
import yaml

ROOT = Path(__file__).parents[2] / "deploy" / "kubernetes"
EXAMPLE = ROOT / "overlays" / "example"

# The oldest that the manifests say they run on (a preStop that sleeps), and the newest whose schemas are pinned.
VERSIONS = ("1.30", "1.37")

SCHEMAS = files("kubernetes_validate") / "kubernetes-json-schema"

Manifest = dict[str, Any]


def manifests(directory: Path = ROOT) -> Iterator[Manifest]:
    """Every object of every file that kustomize takes as a resource, kustomizations aside."""
    for kustomization in sorted(directory.rglob("kustomization.yaml")):
        for name in read(kustomization).get("resources", []):
            path = kustomization.parent / name
            if path.is_file():
                yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def read(path: Path) -> Manifest:
    loaded: Manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def environment(path: Path) -> dict[str, str]:
    """The lines of an ``.env`` file as kustomize reads it: NAME=VALUE, and comments."""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def rendered(directory: Path) -> list[Manifest] | None:
    """What ``kubectl apply -k`` would send, or None without kubectl or kustomize on this machine."""
    command = (
        ["kubectl", "kustomize"]
        if shutil.which("kubectl")
        else ["kustomize", "build"]
        if shutil.which("kustomize")
        else []
    )
    if not command:
        return None
    done = subprocess.run([*command, str(directory)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def problem_of(manifest: Mapping[str, Any], version: str) -> str | None:
    """What a server of that version would refuse, an unknown field too; None where the manifest is valid."""
    copy = json.loads(json.dumps(manifest))
    if schema := CUSTOM.get(manifest["kind"]):
        errors = [*jsonschema.Draft202012Validator(schema).iter_errors(copy)]
        return errors[0].message if errors else None
    errors = [*_validator(version, manifest["apiVersion"], manifest["kind"]).iter_errors(copy)]
    return f"{'.'.join(map(str, errors[0].path))}: {errors[0].message}" if errors else None


@cache
def _validator(version: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    """Of the strict schemas, which know no field but those that they name."""
    # rbac.authorization.k8s.io/v1 is called rbac-v1
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = _definition(version, f"{kind.lower()}-{group}.json")
    return jsonschema.Draft202012Validator(schema.contents, registry=schema @ _definitions(version))


@cache
def _definitions(version: str) -> referencing.Registry[Any]:
    return _definition(version, "_definitions.json") @ referencing.Registry()


def _definition(version: str, name: str) -> referencing.Resource[Any]:
    text = (SCHEMAS / f"v{version}.0-local-strict" / name).read_text(encoding="utf-8")
    return referencing.Resource.from_contents(json.loads(text))


def _object(required: Mapping[str, Any], optional: Mapping[str, Any]) -> Manifest:
    properties = {**required, **optional}
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _list_of(item: Manifest) -> Manifest:
    return {"type": "array", "items": item, "minItems": 1}


def _resource(api_version: str, kind: str, spec: Manifest) -> Manifest:
    metadata = _object({"name": TEXT}, {"namespace": TEXT, "labels": TEXTS})
    return _object(
        {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}, {}
    )


def _rules(policy: str) -> Manifest:
    step = _object({"type": {"enum": [policy]}, "value": NUMBER, "periodSeconds": NUMBER}, {})
    return _object({"policies": {"type": "array", "items": step}}, {"stabilizationWindowSeconds": NUMBER})


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
# KEDA takes nothing but strings for a trigger's metadata.
TEXTS = {"type": "object", "additionalProperties": TEXT}
RELABELING = _object(
    {"sourceLabels": _list_of(TEXT), "regex": TEXT},
    {"targetLabel": TEXT, "replacement": TEXT, "action": {"enum": ["keep", "replace"]}},
)
_DURATION = {"type": "string", "pattern": "^[0-9]+(s|m|h)$"}
_ALERT = _object(
    {"alert": TEXT, "expr": TEXT, "labels": TEXTS, "annotations": TEXTS},
    {"for": _DURATION, "keep_firing_for": _DURATION},
)
_RECORD = _object({"record": TEXT, "expr": TEXT}, {"labels": TEXTS})
_RABBITMQ = _object(
    {
        "queueName": TEXT,
        "mode": {"enum": ["QueueLength", "MessageRate"]},
        "value": {"type": "string", "pattern": r"^[0-9.]+$"},
    },
    {"protocol": {"enum": ["auto", "amqp", "http"]}, "vhostName": TEXT, "activationValue": TEXT},
)
_PROMETHEUS = _object(
    {
        "serverAddress": {"type": "string", "pattern": "^https?://"},
        "query": TEXT,
        "threshold": {"type": "string", "pattern": r"^[0-9.]+$"},
    },
    {"ignoreNullValues": {"enum": ["true", "false"]}, "activationThreshold": TEXT},
)
_TRIGGERS = [
    _object(
        {"type": {"const": kind}, "metadata": metadata},
        {
            "name": TEXT,
            "metricType": {"enum": ["AverageValue", "Value"]},
            "authenticationRef": _object({"name": TEXT}, {}),
        },
    )
    for kind, metadata in (("rabbitmq", _RABBITMQ), ("prometheus", _PROMETHEUS))
]
_SCALER = _object({}, {"behavior": _object({}, {"scaleUp": _rules("Percent"), "scaleDown": _rules("Pods")})})

# No Python package has the schemas of these as a server applies them. What stands here is what the pages of KEDA 2.17
# and of the Prometheus operator say of the fields that we use, and nothing else is let through.
CUSTOM: dict[str, Manifest] = {
    "ScaledObject": _resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        _object(
            {
                "scaleTargetRef": _object({"name": TEXT}, {}),
                "triggers": {"type": "array", "items": {"oneOf": _TRIGGERS}, "minItems": 1},
            },
            {
                "pollingInterval": NUMBER,
                "minReplicaCount": NUMBER,
                "maxReplicaCount": NUMBER,
                "advanced": _object({}, {"horizontalPodAutoscalerConfig": _SCALER}),
            },
        ),
    ),
    "TriggerAuthentication": _resource(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        _object(
            {
                "secretTargetRef": {
                    "type": "array",
                    "items": _object({"parameter": TEXT, "name": TEXT, "key": TEXT}, {}),
                    "minItems": 1,
                }
            },
            {},
        ),
    ),
    "PrometheusRule": _resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        _object(
            {
                "groups": _list_of(
                    _object({"name": TEXT, "rules": _list_of({"oneOf": [_ALERT, _RECORD]})}, {"interval": _DURATION})
                )
            },
            {},
        ),
    ),
    "PodMonitor": _resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        _object(
            {
                "selector": _object({"matchLabels": TEXTS}, {}),
                "podMetricsEndpoints": {
                    "type": "array",
                    "items": _object(
                        {"port": TEXT, "path": TEXT},
                        {
                            "interval": TEXT,
                            "scrapeTimeout": TEXT,
                            "relabelings": {"type": "array", "items": RELABELING},
                        },
                    ),
                },
            },
            {"jobLabel": TEXT},
        ),
    ),
}
