"""The simulation of a budget held in many places: what each way of sharing promises, over many worlds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.leases import Home, World, lease, requests, simulate, table, told

WORLDS = st.builds(
    World,
    gateways=st.integers(1, 8),
    per_second=st.sampled_from((5.0, 50.0)),
    seconds=st.just(10.0),
    demand=st.sampled_from((0.5, 1.0, 1.5, 4.0)),
    round_trip_s=st.sampled_from((0.0, 0.05, 0.5)),
    away_at=st.sampled_from((4.0, float("inf"))),
    seed=st.integers(0, 1000),
)


@settings(max_examples=40)
@given(WORLDS, st.sampled_from((0.0005, 0.01, 0.1, 0.5)), st.booleans())
def test_leases_never_overshoot_and_answer_everybody(world: World, share: float, taper: bool) -> None:
    asked = requests(world)
    result = simulate(world, lease(share, taper=taper))
    assert result.used <= result.budget
    assert result.requests == len(asked)
    assert result.admitted + result.refused == len(asked)


@settings(max_examples=40)
@given(WORLDS)
def test_the_ledger_at_home_is_exact(world: World) -> None:
    result = simulate(world, Home)
    assert result.used <= result.budget
    assert result.admitted + result.refused == len(requests(world))
    if world.away_at > world.seconds and result.refused:
        assert result.budget - result.used < world.most_tokens


@settings(max_examples=40)
@given(WORLDS, st.sampled_from((0.1, 1.0, 3.0)))
def test_use_that_is_told_overshoots_by_no_more_than_was_asked_for_between_two_tellings(
    world: World, every: float
) -> None:
    asked = requests(world)
    # What a gateway does not know of is younger than two tellings: its own last hearing, and the others' last telling.
    silence = 2 * every if world.away_at > world.seconds else world.seconds
    busiest = max(
        (sum(r.tokens for r in asked if start <= r.at <= start + silence) for start in {r.at for r in asked}), default=0
    )
    assert simulate(world, told(every)).used <= world.budget + busiest


def test_a_lease_outlives_an_outage_of_the_ledger_the_longer_the_larger_it_is() -> None:
    world = World(gateways=4, per_second=50, seconds=60, demand=0.5, away_at=20)
    refused = [simulate(world, lease(share)).refused for share in (0.001, 0.02, 0.2)]
    assert refused[0] > refused[1] > refused[2]
    assert simulate(world, Home).refused > refused[0]


def test_the_table_has_a_line_for_each_way() -> None:
    lines = table(World(gateways=3, per_second=20, seconds=20)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["home", *["lease"] * 4, *["taper"] * 3, *["told"] * 3]
