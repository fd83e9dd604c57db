"""A real Alertmanager with the site's own routes: who is told of what, in which words, and what is kept quiet."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.support.alert_files import alerts
from tests.support.alertmanager import PrivateAlertmanager, StartAlertmanager
from tests.support.on_call import OnCall, on_call
from tests.support.waiting import until


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[OnCall]:
    async with on_call(tmp_path) as people:
        yield people


@pytest.fixture
def alertmanager(alertmanager_server: StartAlertmanager, people: OnCall) -> PrivateAlertmanager:
    return alertmanager_server(people.routes)


def alert(name: str, **labels: str) -> Mapping[str, Mapping[str, str]]:
    """As Prometheus posts it, its sentences not yet filled in."""
    rule = alerts()[name]
    return {"labels": {"alertname": name, **rule["labels"], **labels}, "annotations": rule["annotations"]}


async def test_a_critical_alert_comes_by_slack_mail_and_webhook_and_says_where_to_read_on(
    alertmanager: PrivateAlertmanager, people: OnCall
) -> None:
    alertmanager.post(alert("SongsAiNoWorker"))
    await until(lambda: everything_came(people), within_s=15)
    (slack,) = people.posted("slack")[0]["attachments"]
    assert (slack["title"], slack["color"]) == ("[critical] No worker runs", "danger")
    assert "What to do: docs/runbook.md#songsainoworker" in slack["text"]
    subject, text = people.mails()[0]
    assert subject == "[critical] No worker runs"
    assert "None" not in text
    assert "docs/runbook.md#songsainoworker" in text
    assert people.mail.recipients[0].endswith("<on-call@example.org>")
    assert people.mail.logins == ["\0songs-ai@example.org\0pw"]
    (posted,) = people.posted("webhook")[0]["alerts"]
    assert posted["labels"]["alertname"] == "SongsAiNoWorker"
    assert people.hooks.authorizations[people.hooks.paths.index("/webhook")] == "Bearer token-1"


async def test_a_warning_comes_by_slack_alone_a_ticket_by_mail_and_the_watchdog_as_a_heartbeat(
    alertmanager: PrivateAlertmanager, people: OnCall
) -> None:
    alertmanager.post(alert("SongsAiTaskFailed"), alert("SongsAiDeadLettersWait"), alert("SongsAiWatchdog"))

    async def came() -> bool:
        return all((people.posted("slack"), people.posted("heartbeat"), people.mails()))

    await until(came, within_s=15)
    assert [body["attachments"][0]["title"][:9] for body in people.posted("slack")] == ["[warning]"]
    assert [subject[:6] for subject, _ in people.mails()] == ["[info]"]
    assert people.posted("heartbeat")[0]["alerts"][0]["labels"]["alertname"] == "SongsAiWatchdog"
    assert people.posted("webhook") == []


async def test_two_workers_that_are_down_are_one_message_and_its_end_is_told(
    alertmanager: PrivateAlertmanager, people: OnCall
) -> None:
    both = [alert("SongsAiWorkerDown", instance=name) for name in ("a:8000", "b:8000")]
    alertmanager.post(*both)
    await until(lambda: has_alerts(people, 2), within_s=15)
    alertmanager.post(
        *({**each, "endsAt": "2020-01-01T00:00:00Z", "startsAt": "2019-01-01T00:00:00Z"} for each in both)
    )

    async def ended() -> bool:
        # Both ways are waited for: each is posted to by itself.
        bodies = people.posted("slack")[-1:]
        is_green = bool(bodies) and bodies[0]["attachments"][0]["color"] == "good"
        return is_green and people.posted("webhook")[-1]["status"] == "resolved"

    await until(ended, within_s=15)
    assert people.posted("slack")[-1]["attachments"][0]["title"].startswith("[resolved]")


@pytest.mark.parametrize(
    ("cause", "quiet", "loud"),
    [
        (
            alert("SongsAiNoWorker"),
            [alert(name) for name in alerts() if name not in ("SongsAiNoWorker", "SongsAiDeadLettersRising")],
            [
                *(alert(name) for name in ("SongsAiDeadLettersRising", "SongsAiDeadLettersWait", "SongsAiWatchdog")),
                *(alert(name) for name in ("SongsAiApiDown", "SongsAiRedisFilling")),
            ],
        ),
        (
            alert("SongsAiWorkerDown", instance="a"),
            [alert("SongsAiMemoryHigh", instance="a"), alert("SongsAiWorkerRestarting", instance="a")],
            [alert("SongsAiMemoryHigh", instance="b"), alert("SongsAiErrorRatio")],
        ),
        (
            alert("SongsAiRedisFailing"),
            [
                *(alert(name) for name in ("SongsAiErrorRatio", "SongsAiNoLeader", "SongsAiOldestJobTooOld")),
                *(alert(name) for name in ("SongsAiNotConsuming", "SongsAiTaskOverdue", "SongsAiIndexEmpty")),
            ],
            [
                alert("SongsAiDatabaseFailing"),
                alert("SongsAiApiDown"),
                alert("SongsAiWorkerDown", instance="a"),
                alert("SongsAiBreakerOpen"),
            ],
        ),
        (
            alert("SongsAiBreakerOpen", model="small"),
            [alert("SongsAiAnswersDegraded")],
            [alert("SongsAiErrorRatio"), alert("SongsAiLlmBudgetLow")],
        ),
        (
            alert("SongsAiLlmBudgetSpent"),
            [alert("SongsAiAnswersDegraded"), alert("SongsAiLlmBudgetLow")],
            [alert("SongsAiErrorRatio")],
        ),
        (
            alert("SongsAiRedisFilling"),
            [],
            [alert("SongsAiErrorRatio"), alert("SongsAiOldestJobTooOld"), alert("SongsAiIndexEmpty")],
        ),
        (
            alert("SongsAiCutOff", instance="a", dependency="redis"),
            [],
            [alert("SongsAiErrorRatio"), alert("SongsAiOldestJobTooOld"), alert("SongsAiNotConsuming")],
        ),
    ],
    ids=["no worker", "one worker down", "redis", "breaker", "money", "redis fills", "one worker cut off"],
)
async def test_what_follows_from_a_cause_is_kept_quiet_and_nothing_else(
    alertmanager: PrivateAlertmanager,
    cause: Mapping[str, Mapping[str, str]],
    quiet: list[Mapping[str, Mapping[str, str]]],
    loud: list[Mapping[str, Mapping[str, str]]],
) -> None:
    quiet = [each for each in quiet if each not in loud]
    alertmanager.post(cause, *quiet, *loud)
    expected = sorted(sorted(each["labels"].items()) for each in quiet)

    async def are_quiet() -> bool:
        # Its rules learn of alerts a moment after they were posted.
        inhibited = [each["labels"] for each in alertmanager.alerts() if each["status"]["inhibitedBy"]]
        return sorted(sorted(labels.items()) for labels in inhibited) == expected

    await until(are_quiet, within_s=15)


async def everything_came(people: OnCall) -> bool:
    return all((people.posted("slack"), people.posted("webhook"), people.mails()))


async def has_alerts(people: OnCall, n: int) -> bool:
    return any(len(body["alerts"]) == n for body in people.posted("webhook"))
