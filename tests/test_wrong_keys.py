"""Failed authentications by address: when 401 becomes 429, for how long, and for whom."""

import pytest

from extproc.errors import InvalidApiKey, MissingApiKey, RateLimitExceeded
from extproc.wrong_keys import WrongKeys, source_of

ERROR = InvalidApiKey("wrong")


def refused(wrong: WrongKeys, address: str, now_s: float) -> bool:
    """Whether one more failure is answered 429."""
    answer = wrong.refusal(ERROR, address, now_s)
    assert answer is ERROR or isinstance(answer, RateLimitExceeded)
    return answer is not ERROR


def test_so_many_of_a_window_and_no_more_until_it_is_over() -> None:
    wrong = WrongKeys(most=3, window_s=60)
    assert [refused(wrong, "10.0.0.1", 100.0 + turn) for turn in range(5)] == [False] * 3 + [True] * 2
    answer = wrong.refusal(ERROR, "10.0.0.1", 110.0)
    assert answer.retry_after_s == 50.0
    assert not refused(wrong, "10.0.0.1", 160.0)
    assert (wrong.total, wrong.limited) == (7, 3)


def test_no_key_at_all_is_nobodys_try() -> None:
    wrong, missing = WrongKeys(most=1), MissingApiKey("none")
    assert all(wrong.refusal(missing, "a", 0.0) is missing for _ in range(10))
    assert not refused(wrong, "a", 0.0)
    assert wrong.total == 11


def test_a_clock_set_back_opens_a_new_window() -> None:
    wrong = WrongKeys(most=1)
    refused(wrong, "a", 1000.0)
    assert not refused(wrong, "a", 10.0)


def test_each_address_counts_for_itself_and_only_so_many_are_remembered() -> None:
    wrong = WrongKeys(most=1, addresses=100)
    for number in range(1000):
        assert not refused(wrong, f"10.0.{number // 250}.{number % 250}", 0.0)
        assert refused(wrong, "192.0.2.1", 0.0) is (number > 0)  # one that goes on is not forgotten
    assert len(wrong) == 100


@pytest.mark.parametrize(("hops", "source"), [(0, "10.0.0.3"), (1, "10.0.0.2"), (2, "10.0.0.1"), (9, "10.0.0.1")])
def test_who_sent_it_through_proxies(hops: int, source: str) -> None:
    assert source_of("10.0.0.1, 10.0.0.2, 10.0.0.3", hops) == source


@pytest.mark.parametrize(
    ("header", "source"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("1.2.3.4, 10.0.0.1", "10.0.0.1"),  # what is before the last is the client's word
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("1.2.3.4,2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", ""),
        ("x" * 1000, "x" * 64),
    ],
)
def test_who_sent_it(header: str, source: str) -> None:
    assert source_of(header) == source
