"""What is learnt about output lengths."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.budget.estimate import ENFORCED, HELD, OutputEstimates, Policy, Sketch


def _learnt(counts: list[int], team: str = "team", model: str = "model") -> OutputEstimates:
    estimates = OutputEstimates()
    for count in counts:
        estimates.observe(team, model, count)
    return estimates


def test_a_given_max_tokens_is_the_ceiling_within_the_models_limit() -> None:
    estimates = _learnt([10] * 1_000)
    assert estimates.ceiling("team", "model", 500, None) == 500
    assert estimates.ceiling("team", "model", 500, 300) == 300
    assert estimates.ceiling("team", "model", 500, 16_384, n=3) == 1_500
    assert estimates.ceiling("team", "model", 0, None) == 1


@pytest.mark.parametrize("policy", [HELD, ENFORCED])
def test_nothing_learnt_holds_the_cold_start_within_the_models_limit(policy: Policy) -> None:
    estimates = OutputEstimates()
    assert estimates.ceiling("team", "model", None, None, policy=policy) == policy.cold_start_tokens
    assert estimates.ceiling("team", "model", None, 100, policy=policy) == 100


@pytest.mark.parametrize("policy", [HELD, ENFORCED])
def test_a_learnt_ceiling_covers_its_share_and_little_more(policy: Policy) -> None:
    rng = random.Random(7)
    counts = [min(20_000, int(rng.lognormvariate(4.5, 1.0))) for _ in range(20_000)]
    ceiling = _learnt(counts).ceiling("team", "model", None, None, policy=policy)
    recent = sorted(counts[-3_000:])
    covered = sum(count <= ceiling for count in recent) / len(recent)
    assert covered >= policy.quantile - 0.004
    assert ceiling <= 1.5 * recent[min(len(recent) - 1, round(len(recent) * policy.quantile))]


def test_a_new_team_holds_what_others_need_of_the_model() -> None:
    estimates = _learnt([100] * 50, team="old")
    assert estimates.ceiling("new", "model", None, None) in range(100, 110)
    assert estimates.ceiling("new", "other", None, None) == HELD.cold_start_tokens


def test_teams_are_learnt_apart() -> None:
    estimates = _learnt([10] * 100, team="short")
    for _ in range(100):
        estimates.observe("long", "model", 4_000)
    assert estimates.ceiling("short", "model", None, None) in range(10, 12)
    assert estimates.ceiling("long", "model", None, None) in range(4_000, 4_400)


def test_old_lengths_fade() -> None:
    estimates = _learnt([5_000] * 2_000 + [50] * 10_000)
    assert estimates.ceiling("team", "model", None, None) < 60


def test_choices_are_learnt_and_held_one_by_one() -> None:
    estimates = OutputEstimates()
    for _ in range(40):
        estimates.observe("team", "model", 300, n=3)
    assert estimates.ceiling("team", "model", None, None) in range(100, 110)
    assert estimates.ceiling("team", "model", None, None, n=3) in range(300, 330)


def test_what_is_dumped_is_loaded() -> None:
    rng = random.Random(3)
    estimates = _learnt([rng.randrange(1, 3_000) for _ in range(5_000)])
    other = _learnt([1] * 100, team="forgotten")
    other.load(estimates.dump())
    for policy in (HELD, ENFORCED):
        ceilings = [each.ceiling("team", "model", None, None, policy=policy) for each in (estimates, other)]
        assert ceilings[0] == ceilings[1]
    assert other.ceiling("forgotten", "model", None, None) > 1_000
    assert len(estimates.dump()) < 3_000


def test_learning_goes_on_after_loading() -> None:
    estimates = OutputEstimates()
    estimates.load(_learnt([1_000] * 500).dump())
    for _ in range(20_000):
        estimates.observe("team", "model", 10)
    assert estimates.ceiling("team", "model", None, None) < 12


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90\x90", b"{}", b"\x93\x01\x02\x03", b"\x91\x93\xa1a\xa1b\x01"])
def test_a_dump_that_is_none_is_refused_and_changes_nothing(data: bytes) -> None:
    estimates = _learnt([10] * 100)
    with pytest.raises(ValueError, match="not a dump of output estimates"):
        estimates.load(data)
    assert estimates.ceiling("team", "model", None, None) in range(10, 12)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.budget.estimate.MAX_PAIRS", 10)
    estimates = OutputEstimates()
    for team in range(100):
        estimates.observe(f"team-{team}", "model", 10)
    assert len(estimates.dump()) < len(_learnt([10]).dump()) * 10


@given(st.lists(st.integers(0, 2_000_000), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_lies_between_what_was_seen_and_a_bin_above(counts: list[int], q: float) -> None:
    sketch = Sketch()
    for count in counts:
        sketch.observe(count, half_life=1e9)
    found = sketch.quantile(q)
    assert min(counts) <= found <= max(counts) * 1.1
    assert sum(count <= found for count in counts) >= q * len(counts) - 1e-3


def test_many_observations_neither_overflow_nor_lose_the_count() -> None:
    sketch = Sketch()
    for _ in range(10_000):
        sketch.observe(64, half_life=50)
    assert sketch.samples == pytest.approx(1 / (1 - 2 ** (-1 / 50)), rel=0.01)
    assert sketch.quantile(0.5) == 64
