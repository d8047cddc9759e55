"""The engine's settings, and the policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from luban.inference.engine.fcfs import FirstCome
from luban.inference.engine.mlfq import FeedbackQueue
from luban.inference.engine.profile import Profile
from luban.inference.engine.scheduler import Policy
from luban.inference.engine.srpt import ShortestRemaining

PolicyName = Literal["fcfs", "mlfq", "srpt"]

POLICIES: Mapping[PolicyName, Callable[[Profile, int], Policy]] = {
    "fcfs": lambda _profile, _seats: FirstCome(),
    "mlfq": lambda profile, seats: FeedbackQueue(profile, seats=seats),
    "srpt": lambda profile, seats: ShortestRemaining(profile, seats=seats),
}
"""By name, from the profile that predicts service and the seats of a step."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much the engine works on at once, in how much memory, and who goes first."""

    policy: PolicyName = "mlfq"
    """Who goes first: fcfs (as they came), mlfq (short answers overtake long ones), srpt (the nearest to its end by
    `max_tokens` or a request's hint)."""
    seats: Annotated[int, Ge(1)] = 32
    """Most answers in one step."""
    chunk_tokens: Annotated[int, Ge(1)] = 256
    """Most prompt tokens in one step, over all requests; a longer prompt is read in several."""
    pages: Annotated[int, Ge(0)] = 0
    """Pages of keys and values; 0 takes as many as `pool_bytes` hold."""
    page_size: Annotated[int, Ge(1)] = 16
    """Tokens in a page."""
    pool_bytes: Annotated[int, Ge(1)] = 1 << 30
    """Memory for pages, where `pages` is 0."""
    host_pages: Annotated[int, Ge(0)] = 0
    """Pages that may wait in the host's memory while their answers are set aside; beyond them they are dropped and
    computed again."""
    spare_pages: Annotated[int, Ge(0)] = 0
    """Pages kept free for who comes next, by moving out ahead of need those who are set aside."""
    share: bool = True
    """Compute what requests begin with only once."""
    profile: Profile = field(default_factory=Profile)
    """What a step costs, for policies that predict."""
