"""The worker's list: made by a job that goes through the queue, on request and after reactions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import streamlit as st

from dashboard.api_client import Api, ApiProblem, Trouble
from dashboard.problems import told_problems
from dashboard.shapes import Item, Job
from dashboard.songs import headline, moved, plain
from dashboard.texts import Texts
from dashboard.views.list_changes import list_before
from dashboard.views.reactions import tell_worker
from dashboard.visitor import Visitor

LOOK_EVERY_S = 2.0
Listed = tuple[Item, str]
"""A song and the reason for it."""


@dataclass(slots=True)
class Asked:
    """A list that the visitor asked for, after ``n_told`` times of telling; ``listed`` is None until it is made.

    The reactions before it bring about a list too, which comes later, knows no wish and is not what they look for.
    """

    job_id: str
    n_told: int
    listed: Sequence[Listed] | None = None


def show(api: Api, visitor: Visitor, wish: str, texts: Texts, *, n: int) -> None:
    """The first ``n`` of it, and the button that asks for one."""
    st.subheader(texts("try.worker"))
    st.write(texts("try.worker_lead"))
    if st.button(texts("try.ask_worker"), type="primary", icon=":material/send:"):
        tell_worker(api, visitor)
        job_id = api.explain(
            visitor.seed_ids(),
            member_id=visitor.member_id,
            limit=n,
            locale=texts.language,
            wish=wish,
        )
        st.session_state["asked-for"] = Asked(job_id, visitor.n_told)
    if "asked-for" in st.session_state or visitor.n_told:
        _watch(api, visitor, texts, n)


@st.fragment(run_every=LOOK_EVERY_S)
def _watch(api: Api, visitor: Visitor, texts: Texts, n: int) -> None:
    """Looks again and again: for the list that was asked for, else for those that reactions bring about."""
    with told_problems(texts, "worker"):
        asked: Asked | None = st.session_state.get("asked-for")
        listed = _asked_for(api, asked, texts) if asked and asked.n_told == visitor.n_told else None
        if listed is None:
            listed = _newest(api, visitor)
        if listed is None:
            st.info(texts("try.waiting"))
        else:
            _show_listed(listed[:n], texts)


def _asked_for(api: Api, asked: Asked, texts: Texts) -> Sequence[Listed] | None:
    """None while it is being made, which the page says."""
    if asked.listed is None:
        job = api.job(asked.job_id)
        if job["status"] == "succeeded":
            asked.listed = list(_read(api, job))
        elif job["status"] == "failed":
            st.warning(texts("try.job_failed", reason=plain((job["error"] or {}).get("message", ""))))
        else:
            st.progress(job["progress"], plain(texts.named("status", job["status"])))
    return asked.listed


def _read(api: Api, job: Job) -> Iterator[Listed]:
    """Of each candidate the first field is its id, whatever the catalogue calls that."""
    for candidate in (job["result"] or {"candidates": []})["candidates"]:
        try:
            yield api.item(int(str(next(iter(candidate.values()))))), str(candidate["reason"])
        except ApiProblem as problem:
            if problem.trouble is not Trouble.NOT_FOUND:  # taken off the catalogue since
                raise


def _newest(api: Api, visitor: Visitor) -> Sequence[Listed] | None:
    newest = api.member(visitor.member_id)["newest"]
    return newest and [(each["item"], each["reason"]) for each in newest["items"]]


def _show_listed(listed: Sequence[Listed], texts: Texts) -> None:
    before = list_before("worker", [item["itemId"] for item, _ in listed])
    for place, (item, reason) in enumerate(listed):
        change = moved(item["itemId"], place, before, texts)
        st.markdown(
            f"{place + 1}. {headline(item, texts.language)} {f'**{change}**' if change else ''}  \n{plain(reason)}"
        )
