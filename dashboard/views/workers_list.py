"""The worker's list: made by a job that goes through the queue, on request and after reactions."""

import streamlit as st

from dashboard.api_client import Api
from dashboard.problems import told_problems
from dashboard.songs import headline, moved, plain
from dashboard.texts import Texts
from dashboard.views.list_changes import list_before
from dashboard.views.reactions import tell_worker
from dashboard.visitor import Visitor

LOOK_EVERY_S = 2.0


def show(api: Api, visitor: Visitor, texts: Texts, *, n: int) -> None:
    """The first ``n`` of it, and the button that asks for one."""
    st.subheader(texts("try.worker"))
    st.write(texts("try.worker_lead"))
    if st.button(texts("try.ask_worker"), type="primary", icon=":material/send:"):
        tell_worker(api, visitor)
        st.session_state["job"] = api.explain(
            visitor.seed_ids(),
            member_id=visitor.member_id,
            limit=n,
            locale=texts.language,
            wish=str(st.session_state.get("wish") or ""),
        )
    if st.session_state.get("job") or visitor.is_known:
        _watch(api, visitor, texts, n)


@st.fragment(run_every=LOOK_EVERY_S)
def _watch(api: Api, visitor: Visitor, texts: Texts, n: int) -> None:
    """Looks again and again: for the job that was asked for, and for those that reactions bring about."""
    with told_problems(texts, "worker"):
        if job_id := st.session_state.get("job"):
            _show_job(api, job_id, texts)
        newest = api.member(visitor.member_id)["newest"]
        if newest is None:
            st.info(texts("try.waiting"))
            return
        listed = newest["items"][:n]
        before = list_before("worker", [each["item"]["itemId"] for each in listed])
        for place, recommended in enumerate(listed):
            change = moved(recommended["item"]["itemId"], place, before, texts)
            st.markdown(
                f"{place + 1}. {headline(recommended['item'], texts.language)} {f'**{change}**' if change else ''}  \n"
                f"{plain(recommended['reason'])}"
            )


def _show_job(api: Api, job_id: str, texts: Texts) -> None:
    job = api.job(job_id)
    if job["status"] == "failed":
        st.warning(texts("try.job_failed", reason=plain((job["error"] or {}).get("message", ""))))
    elif job["status"] != "succeeded":
        st.progress(job["progress"], plain(texts.named("status", job["status"])))
