"""Log lines: their shape, where they come from, and that no secret is in any."""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from models.log_event import LogEvent
from services.logs import QUIET_LOGGERS, LogFormat, LogLevel, configure_logging, mask_secrets, set_level, unsaid
from tests.support.worker_process import ROOT

PAGE = ROOT / "docs" / "logs.md"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = {name: logging.getLogger(name).level for name in QUIET_LOGGERS}
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)


def logged(level: LogLevel = "INFO", fmt: LogFormat = "json") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, fmt, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def fail(message: str) -> None:
    raise ConnectionError(message)


def test_a_line_is_one_json_object_with_event_level_and_utc_instant() -> None:
    stream = logged()
    structlog.get_logger().info(LogEvent.JOB_SUCCEEDED, job_id="j1", seconds=1.5)
    (line,) = lines(stream)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"event": "job_succeeded", "level": "info", "job_id": "j1", "seconds": 1.5}


def test_what_is_bound_to_the_context_is_on_every_line_of_libraries_too() -> None:
    stream = logged()
    structlog.contextvars.bind_contextvars(job_id="j1", trace_id="t1", worker_id="w1")
    structlog.get_logger().info(LogEvent.JOB_RECEIVED)
    logging.getLogger("some.library").warning("slow %s", "answer")
    ours, theirs = lines(stream)
    assert (ours["job_id"], ours["trace_id"], ours["worker_id"]) == ("j1", "t1", "w1")
    assert theirs["event"] == "slow answer"
    assert theirs["logger"] == "some.library"
    assert theirs["job_id"] == "j1"


def test_lines_below_the_level_are_not_written() -> None:
    stream = logged("WARNING")
    structlog.get_logger().info(LogEvent.JOB_RECEIVED)
    logging.getLogger("some.library").info("chatter")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("name", ["aio_pika.connection", "uvicorn.error", "langchain", "httpx", "sqlalchemy.engine"])
def test_chatty_libraries_are_heard_from_warning_on(name: str) -> None:
    stream = logged("DEBUG")
    logging.getLogger(name).info("GET / 200")
    logging.getLogger(name).warning("connection lost")
    assert [line["event"] for line in lines(stream)] == ["connection lost"]


def test_a_quiet_level_holds_for_chatty_libraries_too() -> None:
    stream = logged("ERROR")
    logging.getLogger("aio_pika").warning("connection lost")
    assert stream.getvalue() == ""


def test_what_people_are_told_otherwise_is_no_line_for_the_time_being() -> None:
    stream, log = logged(), structlog.get_logger()
    bound = log.bind(n=1)
    with unsaid(LogEvent.BROKER_DISCONNECTED):
        bound.warning(LogEvent.BROKER_DISCONNECTED)
        log.warning(LogEvent.BROKER_DISCONNECTED)
        log.warning(LogEvent.JOB_RECEIVED)
    with suppress(ConnectionError), unsaid(LogEvent.BROKER_DISCONNECTED):
        fail("refused")
    log.warning(LogEvent.BROKER_DISCONNECTED)
    assert [line["event"] for line in lines(stream)] == ["job_received", "broker_disconnected"]


def test_warnings_of_python_become_lines() -> None:
    stream = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    assert "old way" in str(lines(stream)[0]["event"])


def test_a_traceback_stays_on_its_line_and_names_no_secret() -> None:
    stream = logged()
    try:
        fail("amqp://guest:hunter2@broker:5672/ refused")
    except ConnectionError:
        structlog.get_logger().exception(LogEvent.UNEXPECTED_ERROR_CAUGHT)
        logging.getLogger("asyncio").exception("task died")
    assert len(lines(stream)) == 2
    assert all("ConnectionError" in str(line["exception"]) for line in lines(stream))
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("value", [2**80, "\ud800", {1: 2}, b"raw", object(), {"deep": {("a", 1): 2**70}}])
def test_whatever_a_field_holds_a_line_comes_out(value: object) -> None:
    stream = logged()
    structlog.get_logger().info(LogEvent.JOB_RECEIVED, value=value)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "job_received" in text


def test_a_terminal_gets_colours_and_a_pipe_gets_json() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    configure_logging("INFO", "auto", stream=terminal)
    structlog.get_logger().info(LogEvent.WORKER_STARTED, url="redis://:hunter2@cache/0")
    configure_logging("INFO", "auto", stream=pipe)
    structlog.get_logger().info(LogEvent.WORKER_STARTED)
    assert "\x1b[" in terminal.getvalue()
    assert "hunter2" not in terminal.getvalue()
    assert lines(pipe)[0]["event"] == "worker_started"


def test_a_console_that_is_no_terminal_gets_no_colours() -> None:
    stream = logged(fmt="console")
    structlog.get_logger().info(LogEvent.WORKER_STARTED, n_jobs=3)
    assert "n_jobs=3" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_a_second_configuration_replaces_the_first() -> None:
    first = logged()
    second = logged()
    logging.getLogger("some.library").warning("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("amqp://guest:hunter2@broker:5672/%2F", "amqp://guest:***@broker:5672/%2F"),
        ("redis://:hunter2@cache:6379/0", "redis://:***@cache:6379/0"),
        ("mysql+asyncmy://u:hun@ter2@db/x", "mysql+asyncmy://u:***@db/x"),
        ("postgres://u:hun/ter2@db/x", "postgres://u:***@db/x"),
        ("key sk-proj-hunter2hunter2 refused", "key sk-*** refused"),
        ("Authorization: Bearer hunter2hunter2", "Authorization: ***"),
        ('{"authorization":"Basic hunter2="}', '{"authorization":"***"}'),
        ("{'Authorization': 'Bearer hunter2hunter2', 'accept': '*/*'}", "{'Authorization': '***', 'accept': '*/*'}"),
        (r'"{\"Authorization\": \"Bearer hunter2hunter2\"}"', r'"{\"Authorization\": \"***\"}"'),
        ("sent Bearer hunter2hunter2", "sent Bearer ***"),
        ("password=hunter2&x=1", "password=***&x=1"),
        ("{'api_key': 'hunter2'}", "{'api_key': '***'}"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked
    assert "hunter2" not in mask_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/health",
        "https://api.example.com/v1?q=a",
        "redis://cache:6379/0",
        "task-force-one of disk-cleanups",
        "mail to someone@example.com",
        "the bearer of news",
        "the API answered",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_secrets(text) == text


@given(
    password=st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="\"'\\"), min_size=4, max_size=30),
    host=st.from_regex(r"[a-z]{1,12}", fullmatch=True),
)
def test_no_password_of_a_url_survives(password: str, host: str) -> None:
    secret = f"#{password}#"
    shown = mask_secrets(f"could not reach amqp://user:{secret}@{host}:5672/vhost at all")
    assert secret not in shown
    assert shown.endswith("at all")


@given(st.text(max_size=80))
def test_masking_again_changes_nothing(text: str) -> None:
    once = mask_secrets(text)
    assert mask_secrets(once) == once


# --- the page, and the level ---


def test_the_page_names_every_event_and_nothing_else() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("## Events\n")[2]
    named = re.findall(r"^\| `([a-z_]+)` \| ", table, re.MULTILINE)
    assert named == list(dict.fromkeys(named))
    assert set(named) == {str(event) for event in LogEvent}


def test_every_event_is_logged_somewhere() -> None:
    packages = ("api", "commands", "core", "services", "training", "workers")
    texts = "".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    assert [event.name for event in LogEvent if not re.search(rf"LogEvent\.{event.name}\b", texts)] == []


def test_the_level_can_be_changed_for_our_lines_and_those_of_libraries() -> None:
    stream = logged("WARNING")
    log, library, chatty = structlog.get_logger(), logging.getLogger("some.library"), logging.getLogger("httpx")

    def say() -> int:
        before = stream.getvalue().count("\n")
        log.info(LogEvent.JOB_RECEIVED)
        library.info("chatter")
        chatty.info("GET / 200")
        return stream.getvalue().count("\n") - before

    assert say() == 0
    set_level("INFO")
    assert say() == 2
    set_level("ERROR")
    assert say() == 0
    chatty.warning("lost")
    assert "lost" not in stream.getvalue()
    assert {line["level"] for line in lines(stream)} == {"info"}
