"""Every number that the simulated listeners are made of, in one place, with where it comes from.

Sources: [Skip] P. Lamere, "The Skip", Music Machinery 2014 (of all plays 24.1 % end within 5 s, 35.05 % within 30 s,
48.6 % before the end). [Repeat] A. Anderson et al., "The Dynamics of Repeat Consumption", WWW 2014. [Yule] H. A. Simon,
"On a Class of Skew Distribution Functions", Biometrika 1955 (what was often played is likelier to be played again).
[Position] N. Craswell et al., "An Experimental Comparison of Click Position-Bias Models", WSDM 2008. [Drift]
Y. Koren, "Collaborative Filtering with Temporal Dynamics", KDD 2009. [Ours]: nobody's measurement; chosen so that a
history looks like one, and to be changed freely.
"""

from dataclasses import dataclass

_MORNING = (3.0, 2.0, 1.2, 0.8, 0.6, 0.7, 1.5, 3.0, 4.5, 4.5, 4.3, 4.4)
_AFTERNOON = (4.8, 4.8, 4.7, 4.8, 5.2, 6.0, 6.5, 6.8, 7.0, 7.0, 6.2, 4.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What listeners are like; see the module for the sources in brackets."""

    # --- what suits a listener: the truth ---
    feature_weight: float = 1.0
    """Of numeric features in the distance of two items; so are the next two. [Ours]"""
    genre_weight: float = 1.0
    creator_weight: float = 0.5
    strangeness: float = 2.5
    """Affinity to an item as far off as two of the catalogue commonly are is exp(-strangeness), about 0.08. [Ours]"""
    min_interests: int = 2
    max_interests: int = 4
    interest_spread: float = 0.15
    """How far an interest lies from the item it is modelled on, as a share of a common distance. [Ours]"""
    interest_life_days: float = 120.0
    """Mean time after which an interest gives way to another: tastes drift. The idea is [Drift]'s, the figure ours."""
    interest_evenness: float = 2.0
    """Of the Dirichlet distribution of a listener's time over the interests. [Ours]"""

    # --- when they listen ---
    sessions_per_day: float = 0.3
    """The median listener's; a benchmark's worth rather than a music lover's. [Ours]"""
    sessions_spread: float = 0.8
    """Sigma of the lognormal distribution of sessions over listeners: few of them listen much. [Ours]"""
    plays_per_session: float = 5.0
    """Mean of a geometric distribution. [Ours]"""
    hours: tuple[float, ...] = (*_MORNING, *_AFTERNOON)
    """Weight of each hour of the day at which sessions begin; rises to the evening. [Ours]"""
    early_or_late_h: float = 1.5
    """By how many hours listeners live earlier or later than others, a standard deviation. [Ours]"""
    item_length_s: float = 215.0
    item_length_spread: float = 0.25
    """Median and lognormal sigma of how long an item takes. [Ours]"""

    # --- what they choose by themselves ---
    popularity_bias: float = 1.0
    """Exponent of an item's popularity wherever something is chosen. [Yule], exponent ours."""
    popularity_floor: float = 0.05
    """Popularity (0 to 1) that is added to every item's: what nobody knows is found by somebody. [Ours]"""
    choice_sharpness: float = 3.0
    """Exponent of affinity in a choice: one listens nearer to one's taste than one can bear. [Ours]"""
    chart_share: float = 0.15
    """Plays chosen by popularity alone, whatever the taste. [Ours]"""
    repeat_share: float = 0.3
    """Plays of something played before, where it suited. [Repeat] finds most consumption repeated; ours is low."""
    min_repeat_affinity: float = 0.35
    """Below this nothing is asked for again. [Ours]"""

    # --- what they make of a play ---
    completed_floor: float = 0.15
    completed_slope: float = 0.60
    """Probability of hearing an item out: floor + slope * affinity; [Skip] says 51 % over all plays."""
    skipped_share: float = 0.72
    """Plays cut off within ``skip_within_s``, of those not heard out: 35.05 / 48.6. [Skip]"""
    skip_within_s: float = 30.0
    skip_mean_s: float = 6.0
    """Mean of an exponential distribution, cut at ``skip_within_s``. [Skip]: most within 5 s."""
    like_rate: float = 0.5
    """Probability of liking what was heard out for the first time: like_rate * affinity ** 2. [Ours]"""
    dislike_rate: float = 0.06
    """Probability of disliking what was skipped: dislike_rate * (1 - affinity) ** 2. [Ours]"""
    unlike_rate: float = 0.10
    """Probability of taking a like back: unlike_rate * (1 - affinity at the end), so mostly after a drift. [Ours]"""

    # --- what they make of a recommended list ---
    position_exponent: float = 0.5
    """Place p (from 1) of a list is looked at with probability p ** -exponent. The shape is [Position]'s."""
    try_floor: float = 0.10
    try_slope: float = 0.80
    """Probability of playing what is looked at: floor + slope * affinity; a name tells much of an item. [Ours]"""

    def __post_init__(self) -> None:
        shares = (self.chart_share, self.repeat_share, self.skipped_share, self.completed_floor, self.try_floor)
        tops = (self.completed_floor + self.completed_slope, self.try_floor + self.try_slope)
        if not all(0 <= share <= 1 for share in (*shares, *tops)):
            raise ValueError(f"shares and probabilities run from 0 to 1: {self}")
        if not 1 <= self.min_interests <= self.max_interests:
            raise ValueError(f"a listener has at least one interest: {self.min_interests} to {self.max_interests}")
        if len(self.hours) != 24 or min(self.hours) < 0:  # noqa: PLR2004 - of a day
            raise ValueError("there is a weight, 0 or more, for each of the 24 hours")
