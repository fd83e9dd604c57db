"""Asking in one's own words: an input with a button beside it.

In forms, for an input by itself runs the page anew when it is left; where a tap on a link leaves it, as on a phone,
that run comes before the link's, which is lost.
"""

import streamlit as st

from dashboard.api_client import MAX_ASKED
from dashboard.texts import Texts


def asked_for(texts: Texts, *, key: str) -> str:
    """The song or artist that was asked for; empty for none."""
    return typed(texts("try.search"), texts("try.search_example"), texts("try.find"), key=key).strip()


def typed(label: str, example: str, button: str, *, key: str) -> str:
    """What was typed when the button was pressed last, or Enter."""
    with (
        st.form(f"{key}-form", border=False),
        st.container(horizontal=True, vertical_alignment="bottom", gap="small"),
    ):
        found: str = st.text_input(label, placeholder=example, max_chars=MAX_ASKED, key=key)
        st.form_submit_button(button)
    return found
