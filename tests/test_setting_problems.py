"""Every setting with every kind of wrong value: the sentence names the variable and shows the value, but no secret."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from config.setting_problems import HIDDEN, MAX_SHOWN_CHARS, setting_problems
from config.settings import Settings
from tests.support.command import run_command

NAMES = sorted(Settings.model_fields)
SECRET = "sk-hunter2"


def kind(field: FieldInfo) -> Any:
    """The plain type of a setting: int, float, bool, str, Literal, or what is said in JSON."""
    annotation = field.annotation
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in {Union, UnionType}:
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    return Literal if get_origin(annotation) is Literal else annotation


def out_of_range(field: FieldInfo) -> Iterator[str]:
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=low):
                yield repr(low - 1)  # type: ignore[operator]
            case annotated_types.Gt(gt=low):
                yield repr(low)
            case annotated_types.Le(le=high):
                yield repr(high + 1)  # type: ignore[operator]


def wrong_values(field: FieldInfo) -> Iterator[str]:
    found = kind(field)
    if found is int:
        yield from ("", "many", "1.5", "1e3", "0x10", "nan", "9" * 30, str(2**31), "٣x", "1 2", "[]", "{}")
    elif found is float:
        yield from ("", "many", "nan", "inf", "-inf", "1e999", "3e9", "1,5", "[]", "null")
    elif found is bool:
        yield from ("", "perhaps", "2", "[]")
    elif found is Literal:
        yield from ("", "no such choice", "0", "null")
    elif found is not str and found is not SecretStr:
        yield from ("[", "5,x", "nan", "{", '{"a": 1', "\udcff")
    yield from out_of_range(field)


WRONG = {name: list(wrong_values(Settings.model_fields[name])) for name in NAMES}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)


def problems() -> list[str]:
    with pytest.raises((ValidationError, SettingsError, UnicodeDecodeError)) as caught:
        Settings()
    error = caught.value
    assert isinstance(error, ValidationError | SettingsError | UnicodeDecodeError)
    return setting_problems(error, Settings)


@pytest.mark.parametrize("name", [name for name in NAMES if WRONG[name]])
def test_a_wrong_value_is_told_with_its_variable_and_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in WRONG[name]:
        monkeypatch.setenv(name.upper(), value)
        said = problems()
        assert said
        assert all(sentence.startswith(f"{name.upper()}: ") for sentence in said), said
        assert all(", got " in sentence for sentence in said), said
        assert all(len(sentence) < 400 for sentence in said)
        assert "".join(said).encode()


def test_most_settings_have_wrong_values() -> None:
    assert sum(bool(values) for values in WRONG.values()) > 0.7 * len(NAMES)


@given(name=st.sampled_from(NAMES), value=st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_whatever_a_variable_holds_it_is_taken_or_refused_by_name(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), value)
        try:
            taken = Settings()
        except (ValidationError, SettingsError) as error:
            said = "\n".join(setting_problems(error, Settings))
            assert name.upper() in said.upper()
        else:
            number = getattr(taken, name)
            assert not isinstance(number, float) or math.isfinite(number)


SENTENCES = [
    ("CONCURRENCY", "many", "must be a valid integer, unable to parse string as an integer, got 'many'"),
    ("CONCURRENCY", "2000", "must be less than or equal to 1000, got '2000'"),
    ("JOB_TTL_S", "9" * 12, f"must not be above 2147483647, got '{'9' * 12}'"),
    (
        "LLM_PRICES",
        "{bad",
        "must be JSON (Expecting property name enclosed in double quotes at character 1), got '{bad'",
    ),
    ("LLM_STRATEGIES", '{"deep": {"n_likes": 999}}', "deep.n_likes: must be less than or equal to 60, got 999"),
    ("DISCOVERY_MIX", "hidden_gem", "discovery_mix must be such as hidden_gem:2,crossover:1, got 'hidden_gem'"),
    (
        "RETRY_DELAYS_S",
        "5,4294968",
        "retry_delays_s must not be above 4294967: RabbitMQ takes no longer lifetime, got '5,4294968'",
    ),
]


@pytest.mark.parametrize(("name", "value", "sentence"), SENTENCES)
def test_the_sentence_of_a_wrong_value(name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert problems() == [f"{name}: {sentence}"]


def test_a_long_value_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCURRENCY", "x" * 10_000)
    (sentence,) = problems()
    shown = sentence.partition(", got ")[2]
    assert shown.startswith("'xxx")
    assert len(shown) == MAX_SHOWN_CHARS


def test_of_a_list_that_is_all_wrong_three_parts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRY_DELAYS_S", ",".join(["x"] * 500))
    assert [sentence.split(": ")[1] for sentence in problems()] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("name", "value"), [("TIME_ZONE", "Z" * 5000), ("LLM_STRATEGIES", f'{{"deep": {{"{"k" * 5000}": 1}}}}')]
)
def test_a_sentence_is_short_where_its_own_words_hold_the_value(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert all(len(sentence) < 450 for sentence in problems())


def test_every_wrong_setting_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONCURRENCY", "DIVERSITY", "LOG_LEVEL"):
        monkeypatch.setenv(name, "wrong")
    assert [sentence.partition(":")[0] for sentence in problems()] == ["DIVERSITY", "CONCURRENCY", "LOG_LEVEL"]


@pytest.mark.parametrize(
    "value", [SECRET, "amqp://user:hunter2@host", "the password is hunter2", '{"a": "sk-hunter2"}']
)
def test_what_looks_like_a_secret_in_the_wrong_variable_is_not_shown(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONCURRENCY", "LLM_PRICES", "RETRY_DELAYS_S"):
        monkeypatch.setenv(name, value)
        said = "\n".join(problems())
        assert "hunter2" not in said
        assert HIDDEN in said
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", [name for name in NAMES if kind(Settings.model_fields[name]) is SecretStr])
def test_no_secret_is_shown_whatever_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for ending in ("\udcff", "\n", "\x7f"):
        monkeypatch.setenv(name.upper(), SECRET + ending)
        (sentence,) = problems()
        assert sentence.startswith(f"{name.upper()}: ")
        assert sentence.endswith(f", got {HIDDEN}")
    monkeypatch.setenv(name.upper(), SECRET)
    monkeypatch.setenv("MAX_TOP_K", "1")
    said = "\n".join(problems())
    assert "hunter2" not in said
    assert "top_k" in said


def test_an_env_file_that_is_not_utf_8_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"LLM_EXPERIMENT=caf\xe9\n")
    assert problems() == [".env: must be UTF-8 (invalid continuation byte at byte 18)"]


async def test_the_command_says_it_in_a_sentence_without_a_traceback() -> None:
    run = await run_command("migrate", environment={"LLM_PRICES": "{bad", "REDIS_URL": "redis://:hunter2@host"})
    said = run.out + run.err
    assert run.code == 2
    assert "LLM_PRICES: must be JSON" in said
    assert "Traceback" not in said
    assert "hunter2" not in said
