"""What a step costs: fitted from steps whose cost is known, and from real ones."""

from __future__ import annotations

import random

import pytest

from luban.inference.engine.measure import measure
from luban.inference.engine.profile import Measured, Profile, errors, fit, keys_seen
from tests.inference.engine.served import engine_of, loud

TRUE = Profile(base=4e-3, row=5e-4, token=2e-4, key=3e-7)


def steps(profile: Profile, count: int, *, noise: float = 0.0) -> list[Measured]:
    chance = random.Random(7)
    made = []
    for _ in range(count):
        rows = chance.randint(1, 16)
        loads = tuple((chance.choice([1, 1, 1, 64]), chance.randint(0, 500)) for _ in range(rows))
        made.append(Measured(loads, profile.step(loads) * (1 + noise * chance.uniform(-1, 1))))
    return made


def test_each_new_token_sees_itself_and_all_before_it() -> None:
    assert keys_seen(3, 2) == 3 + 4 + 5


def test_the_profile_of_exact_steps_is_found_again() -> None:
    found = fit(steps(TRUE, 40))
    for name in ("base", "row", "token", "key"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6)


def test_a_profile_of_noisy_steps_predicts_others() -> None:
    found = fit(steps(TRUE, 200, noise=0.2))
    assert max(errors(found, steps(TRUE, 50))) < 0.1


def test_no_term_is_negative_even_where_that_would_fit_better() -> None:
    odd = [Measured(((1, before),), 1.0 - before * 1e-4) for before in (0, 100, 200, 300, 400)]
    found = fit(odd)
    assert min(found.base, found.row, found.token, found.key) == 0.0
    assert found.step([(1, 200)]) == pytest.approx(0.98, rel=0.02)


def test_a_few_steps_do_not_make_a_profile() -> None:
    with pytest.raises(ValueError, match="3 steps do not tell four numbers"):
        fit(steps(TRUE, 3))


def test_a_job_is_charged_for_all_its_work_and_its_part_of_each_step() -> None:
    profile = Profile(base=8.0, row=1.0, token=2.0, key=0.0)
    # reading 3 tokens: 1 + 6 + 8/4; then one more token: 1 + 2 + 8/4
    assert profile.answer(3, 0, 2, seats=4) == 9.0 + 5.0


def test_an_engine_is_measured_and_left_idle() -> None:
    engine = engine_of(loud("llama"))
    profile = measure(engine, together=(1, 3), prompts=(4, 12), answer=4)
    assert profile.step([(1, 5)]) > 0
    assert profile.moved > 0
    assert not engine.busy
    engine.check()
