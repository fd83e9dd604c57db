"""What the pages say when the API does not answer as it should: what is wrong, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from dashboard.api_client import ApiProblem
from dashboard.texts import Texts


@contextmanager
def told_problems(texts: Texts, part: str) -> Iterator[None]:
    """Say on the page what went wrong in the block, instead of its rest; ``part`` tells it from others of the page."""
    try:
        yield
    except ApiProblem as problem:
        tell(problem, texts)
        if st.button(texts("problem.again"), key=f"again-{part}"):
            st.rerun()


def tell(problem: ApiProblem, texts: Texts) -> None:
    """One box: what it means, what to do, and the API's own sentence."""
    st.error(f"{texts(f'problem.{problem.trouble}')}\n\n`{' '.join(problem.detail.split()).replace('`', chr(39))}`")
