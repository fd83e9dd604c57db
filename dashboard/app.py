"""The page: ``python -m streamlit run dashboard/app.py``, with the API's address in ``API_URL``."""

import os
from collections.abc import Callable, Mapping
from functools import partial

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from dashboard.address import LANGUAGE, kept_in_address, write_address
from dashboard.api_client import Api
from dashboard.problems import told_problems
from dashboard.texts import LANGUAGES, Texts, language_of
from dashboard.views import catalogue, members, operations, quality, try_it

DEFAULT_URL = "http://127.0.0.1:8000"
# What Streamlit writes under an input that waits for Enter is English, and each has a button.
_STYLE = '<style>[data-testid="InputInstructions"] {display: none}</style>'
View = Callable[[Api, Texts], None]


def _show_quality(api: Api, texts: Texts) -> None:
    """Of a made-up site ``main.py dashboard`` says whether it fits models."""
    told = os.environ.get("MADE_UP_FITS")
    quality.show(api, texts, fits=next((each for each in quality.Fits if each == told), quality.Fits.NOBODYS))


VIEWS: dict[str, tuple[View, str]] = {
    "try": (try_it.show, ":material/music_note:"),
    "members": (members.show, ":material/group:"),
    "catalogue": (catalogue.show, ":material/library_music:"),
    "quality": (_show_quality, ":material/monitoring:"),
    "operations": (operations.show, ":material/tune:"),
}


@st.cache_resource
def _api(url: str, key: str, metrics_url: str) -> Api:
    return Api(url, key=key, metrics_url=metrics_url)


def _texts() -> Texts:
    """In the language that was chosen, else of the address (``?lang=ja``), else the browser's."""
    asked = st.query_params.get(LANGUAGE) or language_of(st.context.locale)
    if st.session_state.get("language") not in LANGUAGES:
        st.session_state["language"] = asked if asked in LANGUAGES else Texts(asked).language
    return Texts(st.session_state["language"])


def _show_ways(pages: list[StreamlitPage], texts: Texts, kept: Mapping[str, str]) -> None:
    """The other pages, and the languages. Streamlit's own folds away on a phone, and then hides the page.

    ``kept``: what the addresses of pages hold.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for page in pages:
            st.page_link(page, width="content", query_params=kept)
        st.selectbox(
            texts("page.language"),
            list(LANGUAGES),
            format_func=lambda language: LANGUAGES[language],
            key="language",
            label_visibility="collapsed",
            width=130,
        )


def _show(view: View, api: Api, texts: Texts) -> None:
    with told_problems(texts, "page"):
        view(api, texts)


def main() -> None:
    """Draw the page that the address names."""
    st.set_page_config(page_title="Songs AI", page_icon="🎧", layout="centered")
    texts = _texts()
    api = _api(
        os.environ.get("API_URL") or DEFAULT_URL, os.environ.get("API_KEY", ""), os.environ.get("METRICS_URL", "")
    )
    pages = [
        st.Page(
            partial(_show, view, api, texts),
            title=texts(f"{name}.name"),
            icon=icon,
            url_path=name,
            default=name == "try",
        )
        for name, (view, icon) in VIEWS.items()
    ]
    chosen = st.navigation(pages, position="hidden")
    st.html(_STYLE)
    kept = kept_in_address(texts.language)
    write_address(kept)
    _show_ways(pages, texts, kept)
    chosen.run()


main()
