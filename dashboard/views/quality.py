"""Quality: what was measured of each version of the models, and how one came to be in force."""

from enum import StrEnum

import streamlit as st

from dashboard.api_client import Api
from dashboard.charts import Row, draw, lines
from dashboard.problems import told_problems
from dashboard.shapes import Models, Version
from dashboard.songs import plain
from dashboard.texts import Texts

N_PRESELECTED = 3
N_OF_A_CURVE = 2
LOOK_EVERY_S = 3.0


class Fits(StrEnum):
    """Who fits models where there is none yet: on a site of its operators, or on one that ``main.py`` makes up."""

    NOBODYS = "nobodys"
    UNDER_WAY = "under_way"
    MISSING = "missing"


def show(api: Api, texts: Texts, *, fits: Fits = Fits.NOBODYS) -> None:
    """Draw the page."""
    st.title(texts("quality.title"))
    models = api.models()
    n_versions = len(models["versions"])
    if fits is Fits.UNDER_WAY and n_versions < N_OF_A_CURVE:
        _await_more(api, texts, n_versions)
    if not n_versions:
        _tell_none(texts, fits)
        return
    in_force = next((each for each in models["versions"] if each["active"]), None)
    if in_force is not None:
        st.success(texts("quality.in_force", version=plain(in_force["version"])))
    _show_versions(models["versions"], texts)
    _show_curves(models["versions"], texts)
    _show_promotions(models, texts)


def _tell_none(texts: Texts, fits: Fits) -> None:
    if fits is Fits.MISSING:
        st.info(texts("quality.none_missing"))
    elif fits is Fits.NOBODYS:
        st.info(texts("quality.none"))


@st.fragment(run_every=LOOK_EVERY_S)
def _await_more(api: Api, texts: Texts, n_versions: int) -> None:
    """Draw the page anew once there are more."""
    with told_problems(texts, "more"):
        st.info(texts("quality.under_way"))
        if len(api.models()["versions"]) > n_versions:
            st.rerun()


def metric_names(versions: list[Version]) -> list[str]:
    """The names of all that was measured, in the order of the newest version."""
    return list(dict.fromkeys(name for version in versions for name in version["metrics"]))


def _show_versions(versions: list[Version], texts: Texts) -> None:
    st.subheader(texts("quality.versions", n=len(versions)))
    rows = [
        {
            texts("quality.version"): version["version"],
            texts("quality.state"): texts(f"quality.{_state(version)}"),
            texts("quality.made"): version["createdAt"][:16].replace("T", " "),
            **{name: round(value, 4) for name, value in version["metrics"].items()},
        }
        for version in versions
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


def _state(version: Version) -> str:
    if version["active"]:
        return "active"
    return "previous" if version["previous"] else "kept"


def _show_curves(versions: list[Version], texts: Texts) -> None:
    names = metric_names(versions)
    if len(versions) < N_OF_A_CURVE or not names:
        st.info(texts("quality.no_curve"))
        return
    st.subheader(texts("quality.curves"))
    shown = st.multiselect(
        texts("quality.measures"), names, default=names[:N_PRESELECTED], placeholder=texts("page.choose")
    )
    rows: list[Row] = [
        {"when": version["version"], "name": name, "value": version["metrics"][name]}
        for version in reversed(versions)
        for name in shown
        if name in version["metrics"]
    ]
    if rows:
        draw(lines(rows, value=texts("quality.value"), of_versions=True))


def _show_promotions(models: Models, texts: Texts) -> None:
    if not models["promotions"]:
        return
    st.subheader(texts("quality.promotions"))
    rows = [
        {
            texts("quality.made"): each["promotedAt"][:16].replace("T", " "),
            texts("quality.version"): each["version"],
            texts("quality.replaced"): each["replaced"] or "",
            texts("quality.cause"): texts.named("cause", each["cause"]),
            texts("quality.reason"): each["reason"],
        }
        for each in reversed(models["promotions"])
    ]
    st.dataframe(rows, hide_index=True, width="stretch")
