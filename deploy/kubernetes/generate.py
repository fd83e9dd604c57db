"""Writes the alerts as the Prometheus operator takes them: python deploy/kubernetes/generate.py.

They stand in ``deploy/prometheus/alerts.yml``, and kustomize cannot put a file into an object of the operator's. A test
holds both together.
"""

import re
from pathlib import Path
from textwrap import indent

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "alerts.yaml"
NOT_HERE = "SongsAiFewerWorkers"
"""KEDA takes workers out as it likes, and one that died stays in what Prometheus discovers until it is back."""
_HEAD = """\
# Made of deploy/prometheus/alerts.yml by deploy/kubernetes/generate.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: songs-ai
spec:
  groups:
"""


def content() -> str:
    """What stands in the file: the groups, each with the interval that prometheus.yml looks at all of them.

    The operator's own default is 30 seconds: an alert that waits as long would ring after a minute. ``NOT_HERE`` is
    left out.
    """
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    every = yaml.safe_load((ROOT / "prometheus.yml").read_text(encoding="utf-8"))["global"]["evaluation_interval"]
    _, _, groups = alerts.partition("\ngroups:\n")
    groups = re.sub(rf"^ +- alert: {NOT_HERE}\n.*?(?=^ +- alert: )", "", groups, flags=re.MULTILINE | re.DOTALL)
    timed = re.sub(r"^(  - name: .*)$", rf"\1\n    interval: {every}", groups, flags=re.MULTILINE)
    return _HEAD + indent(timed, "  ")


def main() -> None:
    """Write the file."""
    RULES.write_text(content(), encoding="utf-8")


if __name__ == "__main__":
    main()
