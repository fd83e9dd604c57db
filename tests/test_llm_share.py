"""Who is asked about: stable, as many as the share says, and moved as little as can be when it changes."""

from hypothesis import given
from hypothesis import strategies as st

from config.catalogue_profile import load_profile
from config.settings import Settings
from core.llm_share import Arm, arm_of
from workers.runtime.pipeline_config import pipeline_config

MEMBERS = range(1, 20_001)
shares = st.floats(0, 1)
members = st.integers(-(2**63), 2**63 - 1)


def with_llm(share: float, experiment: str = "e") -> set[int]:
    return {member for member in MEMBERS if arm_of(member, share=share, experiment=experiment) is Arm.LLM}


@given(members, st.text(max_size=20))
def test_at_the_ends_everybody_has_the_same_arm(member: int, experiment: str) -> None:
    assert arm_of(member, share=1.0, experiment=experiment) is Arm.LLM
    assert arm_of(member, share=0.0, experiment=experiment) is Arm.RANKING


@given(members, shares, shares)
def test_a_larger_share_takes_nobody_away_from_the_llm(member: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if arm_of(member, share=low, experiment="e") is Arm.LLM:
        assert arm_of(member, share=high, experiment="e") is Arm.LLM


def test_the_share_is_kept_within_what_chance_allows() -> None:
    for share in (0.01, 0.2, 0.5, 0.9):
        deviation = (len(MEMBERS) * share * (1 - share)) ** 0.5
        assert abs(len(with_llm(share)) - share * len(MEMBERS)) < 4 * deviation


def test_a_changed_share_moves_only_as_many_as_it_must() -> None:
    before, after = with_llm(0.3), with_llm(0.35)
    assert before < after
    assert abs(len(after - before) - 0.05 * len(MEMBERS)) < 4 * (0.05 * 0.95 * len(MEMBERS)) ** 0.5


def test_another_experiment_draws_the_members_anew() -> None:
    both = with_llm(0.5, "spring") & with_llm(0.5, "autumn")
    assert abs(len(both) - 0.25 * len(MEMBERS)) < 4 * (0.25 * 0.75 * len(MEMBERS)) ** 0.5


def test_the_draw_is_the_same_in_every_release() -> None:
    assert sorted(with_llm(0.5, "llm"))[:8] == [1, 2, 3, 5, 8, 9, 10, 11]


def test_the_settings_reach_the_pipeline() -> None:
    config = pipeline_config(Settings(llm_share=0.25, llm_experiment="spring"), load_profile("songs"))
    assert (config.llm_share, config.llm_experiment) == (0.25, "spring")
