"""The short numbers by which a model names candidates."""

import re
from collections.abc import Mapping

from models.recommendation import Candidate

Handles = Mapping[int, Candidate]
"""Candidates by handle, from 1, in the order in which the model is shown them."""


def read_handle(value: object) -> int | None:
    """A handle as an integer; compatible servers without strict schemas answer strings too."""
    if isinstance(value, str) and re.fullmatch(r"#?[0-9]{1,6}", value.strip()):
        return int(value.strip().lstrip("#"))
    return value if isinstance(value, int) and not isinstance(value, bool) else None
