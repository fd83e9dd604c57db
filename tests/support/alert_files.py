"""The site's alerts and their routes, as files and as copies with shorter times for tests."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
RULE_TESTS = RULES.with_name("alerts_test.yml")
ROUTES = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
TEMPLATE = ROUTES.with_name("songs-ai.tmpl")
RUNBOOK = ROOT / "docs" / "runbook.md"

Document = dict[str, Any]
_AGGREGATION = re.compile(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(?!\s*\(|\w)")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_WORDS = frozenset({"and", "or", "unless", "bool", "offset"})


@dataclass(frozen=True, slots=True)
class Selector:
    """What an expression asks for: a metric, and its label matchers (label, operator, value)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    def allows(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels is among what is asked for."""
        return all(_holds(labels.get(label, ""), operator, value) for label, operator, value in self.matchers)


def read_yaml(path: Path) -> Document:
    document: Document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def rules() -> list[Document]:
    """All rules, recording and alerting."""
    return [rule for group in read_yaml(RULES)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, Document]:
    """Alerting rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def selectors(expression: str) -> Iterator[Selector]:
    """What a PromQL expression reads; only as much of the language is understood as the rules use."""
    plain = _AGGREGATION.sub(" ", re.sub(r"\[[^\]]*\]", " ", expression))
    for name, braces in _SELECTOR.findall(plain):
        if name not in _WORDS:
            yield Selector(name, tuple(_MATCHER.findall(braces)))


def hurried(directory: Path, replacements: Mapping[str, str], *, patience: str = "3s", window: str = "16s") -> Path:
    """A copy of the rules in ``directory`` that waits only so long, and looks back only so far.

    ``replacements`` are of parts of expressions, each of which must be found: thresholds that no test can reach.
    """
    document = read_yaml(RULES)
    missing = set(replacements)
    for rule in (rule for group in document["groups"] for rule in group["rules"]):
        for old in [old for old in replacements if old in rule["expr"]]:
            rule["expr"], missing = rule["expr"].replace(old, replacements[old]), missing - {old}
        rule["expr"] = re.sub(r"\[\w+\]", f"[{window}]", rule["expr"])
        # What was looked at every second must have been seen at least once, on a machine that is busy too.
        rule["expr"] = re.sub(r"\[\w+:\w+\]", "[60s:1s]", rule["expr"])
        if "for" in rule:
            rule["for"] = patience
    assert not missing, f"nothing to replace: {missing}"
    copy = directory / "hurried_alerts.yml"
    copy.write_text(yaml.safe_dump(document), encoding="utf-8")
    return copy


def routes_of_a_test(directory: Path, *, hooks_url: str, mail_port: int) -> Document:
    """The site's own routes, with the servers and secrets of a test, and without its waits."""
    for name, secret in (("slack_url", f"{hooks_url}/slack"), ("smtp_password", "pw"), ("webhook_token", "token-1")):
        (directory / name).write_text(secret, encoding="utf-8")
    text = ROUTES.read_text(encoding="utf-8")
    text = text.replace("/etc/alertmanager/secrets/", f"{directory}/").replace(
        "/etc/alertmanager/songs-ai.tmpl", str(TEMPLATE)
    )
    text = re.sub(r"https://[a-z-]+\.example\.org/songs-ai", f"{hooks_url}/webhook", text)
    document: Document = yaml.safe_load(text)
    document["receivers"][-1]["webhook_configs"][0]["url"] = f"{hooks_url}/heartbeat"
    document["global"] |= {"smtp_smarthost": f"localhost:{mail_port}", "smtp_require_tls": False}
    for route in (document["route"], *document["route"]["routes"]):
        route |= {"group_wait": "0s", "group_interval": "1s"}
    return document


def _holds(there: str, operator: str, value: str) -> bool:
    match operator:
        case "=":
            return there == value
        case "!=":
            return there != value
        case "=~":
            return re.fullmatch(value, there) is not None
        case _:
            return re.fullmatch(value, there) is None
