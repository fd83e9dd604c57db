"""Operations: whether all is well, what waits, what came of it, what it costs, and what was given up."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import streamlit as st

from dashboard.api_client import Api
from dashboard.charts import bars, draw, lines
from dashboard.exposition import Figures, read_figures
from dashboard.problems import told_problems
from dashboard.shapes import DeadLetter, Health
from dashboard.songs import plain
from dashboard.texts import Texts

LOOK_EVERY_S = 5.0
N_LETTERS = 50
N_REMEMBERED = 240
_NOT_FOUND = "not_found"
_ICONS = {"ok": ":material/check_circle:", "degraded": ":material/warning:", "unavailable": ":material/error:"}


def show(api: Api, texts: Texts) -> None:
    """Draw the page."""
    st.title(texts("operations.title"))
    _show_now(api, texts)
    _show_dead_letters(api, texts)


@st.fragment(run_every=LOOK_EVERY_S)
def _show_now(api: Api, texts: Texts) -> None:
    with told_problems(texts, "now"):
        _show_health(api.health(), texts)
        figures = _figures(api)
        _show_figures(figures, texts)
        _show_course(figures, texts)
        _show_outcomes(figures, texts)
        _show_cost(figures, texts)
        st.write(texts("operations.whose", n=figures.n_processes, seconds=round(LOOK_EVERY_S)))


def _figures(api: Api) -> Figures:
    """Raises ``ApiProblem``, also where what answers tells no metrics."""
    try:
        return read_figures(api.metrics())
    except ValueError as error:
        raise api.metrics_problem(str(error)) from error


def _show_health(health: Health, texts: Texts) -> None:
    state = {"ok": st.success, "degraded": st.warning}.get(health["status"], st.error)
    state(plain(texts.named("operations", health["status"])), icon=_ICONS.get(health["status"]))
    for name, check in health["checks"].items():
        status = plain(texts.named("health", check["status"]))
        reason = f" — {plain(check['reason'])}" if check["reason"] else ""
        st.markdown(f"{_ICONS.get(check['status'], '')} **{plain(name)}** {status}{reason}")


def _show_figures(figures: Figures, texts: Texts) -> None:
    st.subheader(texts("operations.now"))
    shown: Mapping[str, str] = {
        "queue": f"{sum(figures.waiting.values()):,.0f}",
        "retrying": f"{figures.retrying:,.0f}",
        "in_flight": f"{figures.in_flight:,.0f}",
        "dead": f"{sum(figures.dead.values()):,.0f}",
        "mean": "–" if figures.mean_s is None else f"{figures.mean_s * 1000:,.0f} ms",
    }
    with st.container(horizontal=True):
        for name, value in shown.items():
            st.metric(texts(f"operations.{name}"), value)


def _show_course(figures: Figures, texts: Texts) -> None:
    """The queue and the jobs that ended since the page was opened."""
    seen: list[dict[str, object]] = st.session_state.setdefault("course", [])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ended = sum(figures.outcomes.values())
    first = st.session_state.setdefault("ended-before", ended)
    seen += [
        {"when": now, "name": texts("operations.queue"), "value": sum(figures.waiting.values())},
        {"when": now, "name": texts("operations.ended"), "value": max(0.0, ended - first)},
    ]
    del seen[:-N_REMEMBERED]
    st.subheader(texts("operations.course"))
    names = {texts("operations.queue"), texts("operations.ended")}
    draw(lines([row for row in seen if row["name"] in names], value=texts("operations.messages")))


def _show_outcomes(figures: Figures, texts: Texts) -> None:
    st.subheader(texts("operations.outcomes"))
    what, jobs = texts("operations.outcome"), texts("operations.jobs")
    counted = {texts.named("outcome", name): n for name, n in figures.outcomes.items() if n}
    counted |= {texts("operations.degraded_by", reason=reason): n for reason, n in figures.degraded.items() if n}
    if counted:
        draw(bars(list(counted.items()), name=what, value=jobs))
    else:
        st.info(texts("operations.no_jobs"))


def _show_cost(figures: Figures, texts: Texts) -> None:
    """Calls and costs are of the processes that were asked, since each began; the day's spend is of all there are."""
    st.subheader(texts("operations.cost"))
    was_called = any(figures.llm_calls.values())
    if not was_called:
        st.info(texts("operations.llm_elsewhere" if figures.spend_today_usd else "operations.no_llm"))
    if not (was_called or figures.spend_today_usd):
        return
    with st.container(horizontal=True):
        st.metric(texts("operations.today"), f"${figures.spend_today_usd:,.4f}")
        ceiling = f"${figures.daily_ceiling_usd:,.2f}" if figures.daily_ceiling_usd else texts("operations.no_limit")
        st.metric(texts("operations.ceiling"), ceiling)
        for model, usd in figures.cost_usd.items():
            st.metric(plain(model), f"${usd:,.4f}")


# --- dead letters ---


def _show_dead_letters(api: Api, texts: Texts) -> None:
    """Looked at when the page is drawn and when a button asks: a look takes them off the queue for a moment."""
    st.subheader(texts("operations.dead_letters"))
    with told_problems(texts, "dead"):
        page = api.dead_letters(N_LETTERS)
        st.button(texts("operations.look_again"), icon=":material/refresh:")
        _tell_fates(st.session_state.pop("fates", {}), texts)
        if not page["letters"]:
            st.info(texts("operations.none_dead"))
            return
        st.write(texts("operations.n_dead", shown=len(page["letters"]), n=page["n"]))
        letters = {letter["letterId"]: letter for letter in page["letters"]}
        st.dataframe([_row(letter, texts) for letter in letters.values()], hide_index=True, width="stretch")
        picked = st.multiselect(
            texts("operations.which"), list(letters), key="letters", placeholder=texts("page.choose")
        )
        with st.container(horizontal=True):
            _replay_button(api, "replay", picked, texts)
            _replay_button(api, "replay_all", list(letters), texts)


def _replay_button(api: Api, name: str, letter_ids: list[str], texts: Texts) -> None:
    if st.button(texts(f"operations.{name}"), disabled=not letter_ids, icon=":material/replay:"):
        found = api.replay(letter_ids)
        st.session_state["fates"] = Counter(found.get(letter_id, _NOT_FOUND) for letter_id in letter_ids)
        st.rerun()


def _tell_fates(fates: Mapping[str, int], texts: Texts) -> None:
    """What became of those that were to be replayed: how many of each fate, and by its colour whether that is well."""
    for fate, n in sorted(fates.items()):
        state = {"replayed": st.success, "replayed_before": st.info, "succeeded_since": st.info}.get(fate, st.warning)
        state(f"**{n}** · {plain(texts.named('fate', fate))}")


def _row(letter: DeadLetter, texts: Texts) -> dict[str, str | int | None]:
    age_s = letter["ageS"]
    return {
        texts("operations.letter"): letter["letterId"],
        texts("operations.member"): letter["memberId"],
        texts("operations.why"): letter["reason"],
        texts("operations.code"): letter["code"],
        texts("operations.tries"): letter["nTries"],
        texts("operations.age"): "?" if age_s is None else f"{age_s / 60:,.0f} min",
        texts("operations.error"): letter["error"],
    }
