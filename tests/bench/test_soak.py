"""What the soak calls growth."""

from bench.soak import grown

MB = 1_000_000


def test_flat_memory_is_no_growth_however_it_wobbles() -> None:
    assert grown({"worker": [20 * MB] + [100 * MB, 103 * MB] * 20}) == []


def test_a_leak_is_growth() -> None:
    (said,) = grown({"worker": [(100 + number) * MB for number in range(50)], "flat": [MB] * 50})
    assert said.startswith("worker grew from")


def test_few_samples_say_nothing() -> None:
    assert grown({"worker": [MB, 500 * MB]}) == []
