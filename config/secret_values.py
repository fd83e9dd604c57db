"""The secrets among the settings, in every form that they might be written in: for masking, and never for showing."""

import json
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, urlsplit

from pydantic import SecretStr

from config.settings import Settings

MIN_CHARS = 8
"""What is shorter, such as ``guest``, is a word that logs are full of."""


def secret_values(settings: Settings) -> frozenset[str]:
    """Keys, and passwords of URLs: plain, quoted as in URLs, escaped as in JSON; none shorter than ``MIN_CHARS``."""
    found = (form for secret in _secrets(settings) for form in _forms(secret))
    return frozenset(form for form in found if len(form) >= MIN_CHARS)


def _secrets(settings: Settings) -> Iterator[str]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            yield from _passwords(text) if name.endswith("_url") else (text,)
            if name.endswith("_headers"):
                yield from (part.partition("=")[2].strip() for part in text.split(","))


def _passwords(url: str) -> Iterator[str]:
    """The password of ``url``; of one that cannot be parsed all that might be it, such as what holds a slash."""
    try:
        password = urlsplit(url).password
    except ValueError:
        password = None
    if password:
        yield password
    credentials, at, _ = url.partition("://")[2].rpartition("@")
    if at:
        yield credentials.partition(":")[2]


def _forms(secret: str) -> Iterator[str]:
    for plain in {secret, unquote(secret)}:
        yield from (plain, quote(plain, safe=""), quote(plain), quote_plus(plain))
        yield json.dumps(plain)[1:-1]
        yield json.dumps(plain, ensure_ascii=False)[1:-1]
