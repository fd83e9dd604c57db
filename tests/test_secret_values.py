"""What counts as a secret, so that it can be masked wherever it turns up."""

import io
import logging
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from config.secret_values import MIN_CHARS, secret_values
from config.settings import Settings
from models.log_event import LogEvent
from services.logs import QUIET_LOGGERS, configure_logging

PASSWORDS = st.text(st.characters(exclude_categories=["C"]), min_size=MIN_CHARS, max_size=30)


def fail(message: str) -> None:
    raise ConnectionError(message)


def made(**fields: str) -> Settings:
    beside = {"notice_mail_from": "a@b", "notice_mail_to": "c@d"} if "notice_smtp_url" in fields else {}
    return Settings.model_validate({**beside, **{name: SecretStr(value) for name, value in fields.items()}})


def url_with(password: str) -> Settings:
    return made(redis_url=f"redis://:{quote(password, safe='')}@host/0")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = {name: logging.getLogger(name).level for name in QUIET_LOGGERS}
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)


def test_the_defaults_hold_no_secret() -> None:
    assert secret_values(made()) == frozenset()


def test_every_setting_that_hides_itself_is_looked_into() -> None:
    hidden = [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]
    assert set(hidden) == {
        "broker_url", "database_url", "redis_url", "openai_api_key", "api_key", "notice_slack", "notice_webhook",
        "notice_smtp_url", "mlflow_tracking_uri", "spotify_client_id", "spotify_client_secret", "rawg_api_key",
        "otel_exporter_otlp_headers",
    }  # fmt: skip
    for name in hidden:
        scheme = "smtp" if name == "notice_smtp_url" else "amqp"
        value = f"{scheme}://me:pa55word-x@host/" if name.endswith("_url") else "pa55word-x"
        assert secret_values(made(**{name: value})) == {"pa55word-x"}


@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if field.annotation is not SecretStr]
)
def test_a_setting_that_shows_itself_is_not_named_like_a_secret(name: str) -> None:
    words = set(name.split("_"))
    assert words.isdisjoint({"password", "secret", "token", "credential", "url"}) or name == "openai_base_url"
    assert "key" not in words or name == "api_key_for_reads"


@pytest.mark.parametrize("url", ["https://me:pa55word@host/v1", "https://me@host/v1", "http://:pa55word@host"])
def test_the_one_url_that_shows_itself_holds_no_password(url: str) -> None:
    with pytest.raises(ValueError, match="openai_base_url must hold no user") as caught:
        Settings.model_validate({"openai_base_url": url})
    assert "pa55word" not in str(caught.value)


def test_the_one_url_that_shows_itself_may_hold_an_at_in_its_path() -> None:
    assert Settings.model_validate({"openai_base_url": "https://host/v1/@me"}).openai_base_url


@pytest.mark.parametrize("key", ["a b", "schlüssel", "line\nbreak", "tab\t"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="api_key must be of visible ASCII") as caught:
        made(api_key=key)
    assert key not in str(caught.value)


def test_of_headers_each_value_is_a_secret() -> None:
    told = "authorization=Basic%20c2VjcmV0LXg=, x-key=pa55word-x"
    assert {"Basic%20c2VjcmV0LXg=", "Basic c2VjcmV0LXg=", "pa55word-x"} <= secret_values(
        made(otel_exporter_otlp_headers=told)
    )


@pytest.mark.parametrize("word", ["guest", "songs", ""])
def test_words_that_logs_are_full_of_are_no_secrets(word: str) -> None:
    assert secret_values(made(broker_url=f"amqp://guest:{word}@rabbitmq:5672/", openai_api_key=word)) == frozenset()


def test_of_a_url_that_cannot_be_parsed_all_that_may_be_the_password_counts() -> None:
    assert "pa55/word:99@x" in secret_values(made(redis_url="redis://me:pa55/word:99@x@host:6379/0"))
    assert "[pa55word" in secret_values(made(redis_url="redis://me:[pa55word@host:6379/0"))


@given(PASSWORDS)
def test_a_password_is_known_in_every_form(password: str) -> None:
    known = secret_values(url_with(password))
    assert {password, quote(password, safe=""), quote(password), quote_plus(password)} <= known


@given(PASSWORDS)
def test_no_known_secret_is_in_any_line(password: str) -> None:
    stream = io.StringIO()
    configure_logging("INFO", "json", secrets=secret_values(url_with(password)), stream=stream)
    log = structlog.get_logger()
    log.info(LogEvent.WORKER_STARTED, n_items=password, quoted=quote(password, safe=""))
    log.info(LogEvent.WORKER_STARTED, error=f"<{quote_plus(password)}>")
    assert password not in stream.getvalue()
    assert quote(password, safe="") not in stream.getvalue()
    assert stream.getvalue().count("***") >= 3


def test_tracebacks_and_libraries_are_masked_too() -> None:
    stream = io.StringIO()
    secrets = secret_values(made(database_url="mysql://me:pa55%2Fword-x@host/songs"))
    configure_logging("INFO", "json", secrets=secrets, stream=stream)
    try:
        fail("the server said pa55/word-x")
    except ConnectionError:
        structlog.get_logger().exception(LogEvent.UNEXPECTED_ERROR_CAUGHT)
    logging.getLogger("some.library").warning("connecting with %s", "pa55%2Fword-x")
    assert "the server said ***" in stream.getvalue()
    assert "word-x" not in stream.getvalue()


def test_of_two_secrets_the_longer_one_is_masked_whole() -> None:
    stream = io.StringIO()
    secrets = secret_values(made(api_key="pa55word", openai_api_key="pa55word-and-more"))
    configure_logging("INFO", "json", secrets=secrets, stream=stream)
    structlog.get_logger().info(LogEvent.WORKER_STARTED, first="pa55word", second="pa55word-and-more")
    assert '"first":"***","second":"***"' in stream.getvalue()
