"""Settings: defaults that run, bad values refused by name, no secret shown, and an .env.example that is true."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from config.catalogue_profile import load_profile
from config.llm_strategies import StrategyTable
from config.schedule import Schedule
from config.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, StrategyTable | Schedule):
        return "{}"
    if isinstance(value, dict):
        return ",".join(f"{name}:{each}" for name, each in value.items()) or "{}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_the_example_names_every_setting_with_its_default_and_nothing_else() -> None:
    expected = {name.upper(): shown(field.default) for name, field in Settings.model_fields.items()}
    assert dotenv_values(ROOT / ".env.example") == expected


def test_each_setting_in_the_example_is_explained_by_its_own_description() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert f"# {field.description}\n{name.upper()}=" in text


def test_the_example_as_it_stands_is_a_valid_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in dotenv_values(ROOT / ".env.example").items():
        monkeypatch.setenv(name, value or "")
    assert Settings() == Settings.model_construct(**{n: f.default for n, f in Settings.model_fields.items()})


def test_without_any_environment_everything_is_embedded() -> None:
    settings = Settings()
    assert settings.broker_url.get_secret_value() == "memory://"
    assert settings.redis_url.get_secret_value() == "memory://"
    assert settings.database_url.get_secret_value().startswith("sqlite")
    assert not settings.llm_enabled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONCURRENCY", "0"),
        ("EMBEDDING_DIM", "63"),
        ("TIME_ZONE", "Mars/Olympus"),
        ("DEFAULT_LOCALE", "fr"),
        ("RETRY_DELAYS_S", "30,5"),
        ("RETRY_DELAYS_S", "-1"),
        ("RETRY_DELAYS_S", ""),
        ("DISCOVERY_MIX", "hidden_gem"),
        ("DISCOVERY_MIX", "hidden_gem:-1"),
        ("DISCOVERY_MIX", "surprise:1"),
        ("QUEUE_TYPE", "stream"),
        ("NAME_PREFIX", "a b"),
        ("LOG_LEVEL", "LOUD"),
        ("HTTP_RATE_LIMIT", "600"),
        ("HTTP_RATE_LIMIT", "600/minute;"),
        ("HTTP_RATE_LIMIT", "many/minute"),
        ("HTTP_CORS_ORIGINS", "*"),
        ("HTTP_CORS_ORIGINS", "https://songs.example/path"),
        ("HTTP_CORS_ORIGINS", "songs.example"),
    ],
)
def test_a_bad_value_is_refused_by_the_settings_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_limits_and_origins_may_be_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_RATE_LIMIT", "600/minute;20/second")
    monkeypatch.setenv("HTTP_CORS_ORIGINS", "https://songs.example, http://localhost:3000")
    assert Settings().http_rate_limit == "600/minute;20/second"
    assert Settings().http_cors_origins == ("https://songs.example", "http://localhost:3000")


def test_retry_delays_may_be_fractions_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRY_DELAYS_S", "0.2, 0.5,1")
    assert Settings().retry_delays_s == (0.2, 0.5, 1.0)


def test_a_kind_of_discovery_that_the_mix_does_not_name_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVERY_MIX", "hidden_gem:2, new_creator: 0.5")
    assert Settings().discovery_mix == {"hidden_gem": 2.0, "new_creator": 0.5}


def test_no_secret_is_in_a_repr_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for name in ("BROKER_URL", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, f"scheme://user:hidden-{name}@host")
    settings = Settings()
    assert not re.search(r"sk-secret|hidden-", f"{settings!r} {settings}")
    monkeypatch.setenv("CONCURRENCY", "sk-mistaken")
    with pytest.raises(ValidationError) as error:
        Settings()
    assert "sk-" not in str(error.value)


def test_a_base_url_alone_is_an_llm_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert Settings().llm_enabled


def test_a_profile_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no profile 'films'; known are .*songs"):
        load_profile("films")


def test_a_profile_with_a_wrong_field_is_refused_by_file_and_field(tmp_path: Path) -> None:
    text = (ROOT / "config" / "profiles" / "songs.toml").read_text(encoding="utf-8")
    path = tmp_path / "odd.toml"
    path.write_text(text.replace('table = "song"', 'tabel = "song"'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"odd\.toml.*(?s:.*)item\.tabel"):
        load_profile(str(path))


def test_a_spelling_that_no_row_is_read_with_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "config" / "profiles" / "songs.toml").read_text(encoding="utf-8")
    path = tmp_path / "odd.toml"
    path.write_text(text.replace('spellings = ["title_yomi"', 'spellings = ["title_romaji"'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"item\.spellings: title_romaji must be in item\.text"):
        load_profile(str(path))


def test_prices_are_a_table_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PRICES", '{"small": {"input": 0.4, "cached_input": 0.1, "output": 1.6}}')
    price = Settings().llm_prices["small"]
    used = {"prompt_tokens": 1_000_000, "completion_tokens": 500_000}
    assert price.cost_usd(**used) == pytest.approx(1.2)
    assert price.cost_usd(**used, cached_tokens=400_000) == pytest.approx(1.08)
    assert price.cost_usd(**used, cached_tokens=2_000_000) == pytest.approx(0.9)


@pytest.mark.parametrize("price", ['{"input": -1, "output": 1}', '{"input": 1}', '{"input": 1, "outptu": 1}', "1"])
def test_a_price_that_is_none_is_refused(price: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PRICES", f'{{"small": {price}}}')
    with pytest.raises(ValidationError, match="llm_prices"):
        Settings()
