"""Who goes first, and what it costs the others: policies by hand, and the scheduler that carries them out."""

from __future__ import annotations

from luban.inference.engine.fcfs import FirstCome
from luban.inference.engine.job import Job
from luban.inference.engine.mlfq import FeedbackQueue
from luban.inference.engine.pages import PagePool
from luban.inference.engine.profile import Profile
from luban.inference.engine.scheduler import Plan, Policy, Scheduler
from luban.inference.engine.srpt import ShortestRemaining

SECOND_A_TOKEN = Profile(base=0.0, row=0.0, token=1.0, key=0.0)


def job(name: str, prompt: int = 1, budget: int = 8) -> Job:
    return Job(id=name, arrived=0.0, prompt=prompt, budget=budget)


def scheduler(
    policy: Policy,
    *,
    pages: int = 100,
    seats: int = 1,
    chunk_tokens: int = 100,
    host_pages: int = 0,
    spare: int = 0,
) -> Scheduler:
    return Scheduler(
        policy,
        PagePool(pages=pages, page_size=4),
        seats=seats,
        chunk_tokens=chunk_tokens,
        host_pages=host_pages,
        spare_pages=spare,
    )


def step(over: Scheduler, now: float = 0.0) -> Plan:
    """One step whose jobs all get a token once they are read."""
    plan = over.plan(now)
    over.done(plan, now)
    for each, _ in plan.work:
        each.known += each.pending == 0
    over.pool.check(over.jobs)
    return plan


def at_work(plan: Plan) -> list[str]:
    return [each.id for each, _ in plan.work]


def queue(**more: float) -> FeedbackQueue:
    return FeedbackQueue(SECOND_A_TOKEN, seats=1, **({"quantum": 2.0, "patience": 1e9} | more))


def test_a_job_enters_at_the_first_level_that_covers_its_prompt() -> None:
    policy = queue()  # quanta of 2, 4, 8, 16 seconds
    jobs = [job(str(length), prompt=length) for length in (1, 2, 3, 8, 9)]
    for one in jobs:
        policy.add(one, 0.0)
    assert [policy.level(one) for one in jobs] == [0, 0, 1, 2, 3]
    assert policy.order(0.0) == jobs


def test_who_has_used_up_a_quantum_goes_to_the_end_of_the_next_level() -> None:
    policy = queue()
    old, other = job("old"), job("other", prompt=3)
    for one in (old, other):
        policy.add(one, 0.0)
    policy.served(old, 1, 0.0)
    assert policy.level(old) == 0
    policy.served(old, 1, 0.0)
    assert policy.level(old) == 1
    assert policy.order(0.0) == [other, old]
    for _ in range(3):
        policy.served(old, 1, 0.0)
    assert policy.level(old) == 1, "3 of the new level's 4 seconds"
    policy.served(old, 1, 0.0)
    assert policy.level(old) == 2


def test_who_waited_too_long_for_the_load_rises_to_the_first_level() -> None:
    policy = queue(patience=10.0)
    low, high = job("low", prompt=8), job("high")
    policy.add(low, 0.0)
    policy.add(high, 0.0)
    policy.served(high, 1, 19.0)
    assert policy.order(20.0) == [high, low], "two jobs for one seat: 20 seconds are not too long"
    assert policy.order(20.1) == [high, low]
    assert policy.level(low) == 0
    policy.served(low, 1, 21.0)
    assert policy.level(high) == 0


def test_a_short_job_overtakes_a_long_one_between_two_tokens() -> None:
    over = scheduler(queue())
    over.add(job("long"), 0.0)
    for _ in range(3):
        assert at_work(step(over)) == ["long"]
    over.add(job("short"), 3.0)
    assert at_work(step(over)) == ["short"]


def test_the_first_come_keep_their_seats() -> None:
    over = scheduler(FirstCome(), seats=2)
    for name in "abc":
        over.add(job(name), 0.0)
    assert at_work(step(over)) == ["a", "b"]
    assert at_work(step(over)) == ["a", "b"]
    over.remove(next(iter(over.jobs)))
    assert at_work(step(over)) == ["b", "c"]


def test_the_nearest_to_its_end_goes_first_and_what_was_done_counts() -> None:
    policy = ShortestRemaining(SECOND_A_TOKEN, seats=1)
    over = scheduler(policy)
    over.add(job("nine", prompt=2, budget=8), 0.0)  # 2 to read, 7 to draw after the first
    over.add(job("eight", prompt=1, budget=8), 0.0)
    assert at_work(step(over)) == ["eight"]
    over.add(job("seven", prompt=4, budget=4), 0.0)
    assert at_work(step(over)) == ["eight"], "both have 7 seconds to go, and it is older"


def test_a_long_prompt_leaves_seats_to_those_who_decode() -> None:
    over = scheduler(FirstCome(), seats=4, chunk_tokens=5)
    over.add(job("long", prompt=12), 0.0)
    over.add(job("other", prompt=3), 0.0)
    assert [(each.id, new) for each, new in step(over).work] == [("long", 5)]
    assert [(each.id, new) for each, new in step(over).work] == [("long", 5)]
    assert [(each.id, new) for each, new in step(over).work] == [("long", 2), ("other", 3)]
    assert [(each.id, new) for each, new in step(over).work] == [("long", 1), ("other", 1)]


def test_the_least_urgent_gives_up_its_pages_and_gets_them_back() -> None:
    over = scheduler(queue(), pages=2, host_pages=4)
    over.add(job("long", prompt=4), 0.0)
    step(over)  # one page of 4; the next token needs a second one
    step(over)
    over.add(job("short"), 0.0)
    plan = step(over)
    assert at_work(plan) == ["short"]
    assert [(each.id, len(pages)) for each, pages in plan.out] == [("long", 2)]
    assert over.host_free == 2
    over.remove(next(each for each in over.jobs if each.id == "short"))
    plan = step(over)
    assert at_work(plan) == ["long"]
    assert [(each.id, len(pages)) for each, pages in plan.back] == [("long", 2)]
    assert over.host_free == 4
    assert over.counts.recomputed == 0


def test_a_newcomer_does_not_undo_what_is_on_its_way() -> None:
    over = scheduler(queue(), pages=2)  # no room on the host
    over.add(job("long", prompt=4), 0.0)
    step(over)
    step(over)
    over.add(job("short"), 0.0)
    assert at_work(step(over)) == ["long"]
    assert over.counts.recomputed == 0


def test_a_newcomer_leaves_the_host_room_for_half_a_pool_to_those_who_grow() -> None:
    for host_pages, first in ((4, "long"), (5, "short")):
        over = scheduler(queue(), pages=4, host_pages=host_pages)
        over.add(job("long", prompt=9), 0.0)
        step(over)
        over.pool.take(1)  # the fourth page is somebody's
        over.add(job("short"), 0.0)
        assert at_work(over.plan(0.0)) == [first]


def test_who_must_grow_takes_the_pages_of_the_less_urgent_even_if_they_are_dropped() -> None:
    over = scheduler(FirstCome(), pages=3, seats=2)
    first, second = job("first", prompt=3), job("second", prompt=4)
    over.add(first, 0.0)
    over.add(second, 0.0)
    assert at_work(step(over)) == ["first", "second"]
    step(over)  # the second one takes the third page
    assert at_work(step(over)) == ["first"]
    assert (second.pages, second.computed, over.counts.recomputed) == ([], 0, 5)


def test_pages_are_kept_spare_by_swapping_ahead_of_need() -> None:
    over = scheduler(queue(), pages=4, host_pages=8, spare=2)
    over.add(job("long", prompt=8), 0.0)
    step(over)
    over.add(job("short"), 0.0)
    plan = step(over)
    assert at_work(plan) == ["short"]
    assert [each.id for each, _ in plan.out] == ["long"], "1 of 4 pages was free"
    assert over.pool.free == 3
