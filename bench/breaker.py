"""How fast the breaker notices, and how often it is wrong: the real one, fed attempts at a steady or random pace.

In: `python -m bench.breaker [--trials N] [--days D]`. Out: for a provider that fails a share of its usual attempts and
then half of them, the time from its first failure until no worker sends it anything; and how often a provider that
fails no more than usual is passed over in a day. What lies between the breaker and the next choice counts: Envoy's log
is flushed every 0.1 s, workers look at the standings every 0.05 s (ADR 10). Time is simulated.
"""

import argparse
import random
from collections.abc import Iterator

from extproc.routing.breaker import CLOSED, CircuitBreaker
from extproc.routing.windows import Observation
from extproc.settings import Breaker

OK, ERROR = Observation("ok"), Observation("error")
FLUSH_S, LOOK_S = 0.1, 0.05
BEFORE_S = 60.0
NEVER = 1_000_000
DAY_S = 86_400


def times(draw: random.Random, per_s: float, begin_s: float, *, steady: bool) -> Iterator[float]:
    """When attempts end."""
    at = begin_s
    while True:
        at += 1 / per_s if steady else draw.expovariate(per_s)
        yield at


def noticed_s(draw: random.Random, per_s: float, usual: float, *, steady: bool) -> float:
    """From the first failure after it began to fail half of the time until no worker sends it anything."""
    breaker = CircuitBreaker(Breaker())
    for at in times(draw, per_s, -BEFORE_S, steady=steady):
        if at >= 0:
            break
        breaker.observe(ERROR if draw.random() < usual else OK, "m", at, at)
        breaker.adopt(CLOSED)
    flush_s, look_s = draw.uniform(0, FLUSH_S), draw.uniform(0, LOOK_S)
    first_s: float | None = None
    for at in times(draw, per_s, 0.0, steady=steady):
        failed = draw.random() < 0.5
        first_s = at if first_s is None and failed else first_s
        seen_s = _next(at, FLUSH_S, flush_s)
        if breaker.observe(ERROR if failed else OK, "m", at, seen_s) and first_s is not None:
            return _next(seen_s, LOOK_S, look_s) - first_s
    raise AssertionError


def _next(at: float, every_s: float, offset_s: float) -> float:
    return at + every_s - (at - offset_s) % every_s


def wrong(draw: random.Random, per_s: float, usual: float, days: float, settings: Breaker) -> int:
    """How often a circuit opens that nothing has happened to."""
    breaker, opened = CircuitBreaker(settings), 0
    for number in range(round(days * DAY_S * per_s)):
        at = number / per_s
        failed = draw.random() < usual
        if breaker.observe(ERROR if failed else OK, "m", at, at):
            opened += 1
            breaker = CircuitBreaker(settings)
    return opened


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="bench.breaker", description=__doc__)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--days", type=float, default=3.0, help="at 20 a second; a tenth of it at 200")
    args = parser.parse_args()
    draw = random.Random(4)
    print("| pace | usual | median | 99 % | 99.9 % | under 2 s |")
    for per_s, steady in ((20.0, True), (20.0, False), (200.0, True)):
        for usual in (0.0, 0.01, 0.02, 0.05):
            took = sorted(noticed_s(draw, per_s, usual, steady=steady) for _ in range(args.trials))
            at = [took[min(len(took) - 1, int(share * len(took)))] for share in (0.5, 0.99, 0.999)]
            under = sum(each < 2 for each in took) / len(took)
            pace = f"{per_s:.0f}/s {'steady' if steady else 'random'}"
            print(f"| {pace} | {usual:.0%} | {' | '.join(f'{each:.2f} s' for each in at)} | {under:.2%} |", flush=True)
    print("| a day of | usual | opened a day, failures in a row apart | all |")
    apart = Breaker(consecutive_failures=NEVER)
    for per_s, days in ((20.0, args.days), (200.0, args.days / 10)):
        for usual in (0.01, 0.02, 0.05, 0.1):
            counts = [wrong(draw, per_s, usual, days, settings) / days for settings in (apart, Breaker())]
            print(f"| {per_s:.0f}/s | {usual:.0%} | {counts[0]:.2f} | {counts[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
