"""How much the output estimate over-reserves, and whom that wrongly refuses, on real lengths and arrivals.

    python -m bench.reservation [FOLDER]    the Azure LLM inference traces of 2023 (timestamp, context tokens, generated
                                            tokens; github.com/Azure/AzurePublicDataset), gzipped, as
                                            azure_2023_code.csv.gz and azure_2023_conv.csv.gz

Each trace is one model; its requests go round 4 teams, so that teams are learnt one by one. The traces have no
durations: a request is taken to run 0.5 s and 20 ms per output token, and input tokens to be known. No request gives
max_tokens. The first tenth is for learning and not counted.

held/used      sum of holds over sum of use: all tokens; output tokens alone; all tokens weighted by how long held
over           share of requests that used more than was held for output (budget overrun where not strict)
refused, cut   share of requests refused (fewer than 16 output tokens fit) or clamped below what they then use. In
               brackets what an oracle refuses, which holds exactly what will be used; the difference is false
               day     a budget of exactly what the whole trace uses
               minute  a sliding minute limited to exactly the busiest one
               half    half of that: more is asked for than fits, all the time
*              the policies in use (extproc.budget.estimate); 0.999 is that of strict teams
b              a strict team at a model whose vocabulary is not public: a token held for each byte of input
"""

import csv
import gzip
import heapq
import sys
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from extproc.budget.estimate import ENFORCED, HALF_LIFE, HELD, OutputEstimates, Policy

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
MIN_OUTPUT = 16
TEAMS = 4
BYTES_PER_TOKEN = 4.6  # of English and code: what a token of text is held for where the vocabulary is not ours
POLICIES = (  # policy, half-life, tokens held for a token of input
    *((Policy(quantile, 30, 1_024), 1_000, 1.0) for quantile in (0.5, 0.9, 0.95, 0.98)),
    (HELD, 200, 1.0),
    (HELD, 1_000, 1.0),
    (HELD, 5_000, 1.0),
    (ENFORCED, 1_000, 1.0),
    (ENFORCED, 5_000, 1.0),
    (ENFORCED, 1_000, BYTES_PER_TOKEN),
)
MOST_HELD, MOST_FALSE_PCT = 2.0, 0.1  # what the policies in use are to keep to


class Request(msgspec.Struct, frozen=True):
    """One request of a trace. Seconds, tokens."""

    at: float
    team: str
    input: int
    output: int

    @property
    def seconds(self) -> float:
        """How long it is assumed to run."""
        return 0.5 + 0.02 * self.output


class Result(msgspec.Struct):
    """What a simulation counted."""

    requests: int = 0
    held: float = 0
    used: float = 0
    held_output: float = 0
    used_output: float = 0
    held_seconds: float = 0
    used_seconds: float = 0
    over: int = 0


def read(path: Path) -> list[Request]:
    """The requests of one trace, by arrival."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [(row["TIMESTAMP"], row["ContextTokens"], row["GeneratedTokens"]) for row in csv.DictReader(file)]
    times = [datetime.fromisoformat(at[:26]).timestamp() for at, _, _ in rows]
    return [
        Request(at - times[0], f"team-{index % TEAMS}", int(row[1]), int(row[2]))
        for index, (at, row) in enumerate(zip(times, rows, strict=True))
    ]


def holds(requests: list[Request], estimates: OutputEstimates, policy: Policy) -> Iterator[int]:
    """The output ceiling of each request, learning from those that ended before it began."""
    running: list[tuple[float, int, Request]] = []
    for index, request in enumerate(requests):
        while running and running[0][0] <= request.at:
            done = heapq.heappop(running)[2]
            estimates.observe(done.team, "model", done.output)
        yield estimates.ceiling(request.team, "model", None, None, policy=policy)
        heapq.heappush(running, (request.at + request.seconds, index, request))


def measure(requests: list[Request], ceilings: list[int], of_input: float) -> Result:
    """Over-reservation after the first tenth."""
    result = Result()
    first = len(requests) // 10
    for request, ceiling in zip(requests[first:], ceilings[first:], strict=True):
        held, used = of_input * request.input + ceiling, request.input + request.output
        result.requests += 1
        result.held += held
        result.used += used
        result.held_output += ceiling
        result.used_output += request.output
        result.held_seconds += held * request.seconds
        result.used_seconds += used * request.seconds
        result.over += request.output > ceiling
    return result


def harmed(
    requests: list[Request], ceilings: list[int], limit: int, window_s: float, of_input: float = 1.0
) -> tuple[int, int]:
    """(refused, cut) with at most `limit` tokens, held or used, of requests that began in the last `window_s`."""
    running: list[tuple[float, int, float]] = []  # end, index, tokens held too many
    recent: deque[tuple[float, int]] = deque()
    charged: dict[int, float] = {}
    total, refused, cut = 0.0, 0, 0
    for index, (request, ceiling) in enumerate(zip(requests, ceilings, strict=True)):
        while running and running[0][0] <= request.at:
            _, done, excess = heapq.heappop(running)
            if done in charged:
                total -= excess
                charged[done] -= excess
        while recent and recent[0][0] <= request.at - window_s:
            total -= charged.pop(recent.popleft()[1])
        held_input = of_input * request.input
        left = limit - total - held_input
        if left < min(MIN_OUTPUT, ceiling):
            refused += 1
            continue
        held = min(ceiling, left)
        cut += held < min(ceiling, request.output)
        charged[index] = held_input + held
        total += held_input + held
        recent.append((request.at, index))
        heapq.heappush(
            running, (request.at + request.seconds, index, held_input + held - request.input - request.output)
        )
    return refused, cut


def oracle_peak(requests: list[Request], window_s: float) -> int:
    """The most tokens in any window when every hold is exact."""
    recent: deque[Request] = deque()
    total = peak = 0
    for request in requests:
        while recent and recent[0].at <= request.at - window_s:
            gone = recent.popleft()
            total -= gone.input + gone.output
        recent.append(request)
        total += request.input + request.output
        peak = max(peak, total)
    return peak


def main() -> int:
    """Print the table; 0, or 2 when there are no traces."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else TRACES
    paths = sorted(folder.glob("azure_2023_*.csv.gz"))
    if not paths:
        print(f"no azure_2023_*.csv.gz in {folder}: nothing measured", file=sys.stderr)
        return 2
    verdicts: list[tuple[str, float, float]] = []
    print(f"{'':28}| {'held/used':25}| {'':7}| refused + cut, % (refused by an oracle, %)")
    print(f"trace quantile {'half-life':>12} | all    output  by time   | over % | {'day':20}{'minute':20}half")
    for path in paths:
        requests = read(path)
        exact = [request.output for request in requests]
        budget = sum(request.input + request.output for request in requests)
        peak = oracle_peak(requests, 60)
        limits = ((budget, float("inf")), (peak, 60.0), (peak // 2, 60.0))
        oracle = [harmed(requests, exact, *limit)[0] for limit in limits]
        per = 100 / len(requests)
        for policy, half_life, of_input in POLICIES:
            ceilings = list(holds(requests, OutputEstimates(half_life), policy))
            found = measure(requests, ceilings, of_input)
            mark = "b" if of_input > 1 else "*" if policy in (HELD, ENFORCED) else " "
            print(
                f"{path.name[11:15]:5} {policy.quantile:<8}{mark} "
                f"{half_life:10} | {found.held / found.used:<6.2f} {found.held_output / found.used_output:<7.2f} "
                f"{found.held_seconds / found.used_seconds:<9.2f} | {100 * found.over / found.requests:6.2f} | ",
                end="",
            )
            false_pct = list[float]()
            for limit, best in zip(limits, oracle, strict=True):
                refused, cut = harmed(requests, ceilings, *limit, of_input)
                false_pct.append((refused + cut - best) * per)
                print(f"{refused * per:.3f}+{cut * per:.3f} ({best * per:.2f})".ljust(20), end="")
            print()
            if policy is HELD and half_life == HALF_LIFE:
                verdicts.append((path.name[11:15], found.held / found.used, max(false_pct[:2])))
    for name, ratio, false in verdicts:
        met = ratio <= MOST_HELD and false < MOST_FALSE_PCT
        print(
            f"{name}: held/used {ratio:.2f} (aim {MOST_HELD:g}), falsely refused or cut at most {false:.3f} %"
            f" (aim {MOST_FALSE_PCT:g} %): {'met' if met else 'NOT MET'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
