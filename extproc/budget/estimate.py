"""Output tokens that nobody told us, learnt from exchanges that ended whole. Sans-I/O, no clock.

`OutputEstimates`: how many to hold for a request that does not say. (What a cut answer had is for `settle.estimate`.)

    observe(team, model, output_tokens)   after each exchange        (settler)
    ceiling(team, model, max_tokens, ..)  before each exchange       (worker, pure look-up)
    dump() / load(data)                   from the one to the other, through the shared state

A client's `max_tokens` is its own ceiling. Without one, the hold is a high quantile of what that (team, model) used
lately, from a histogram with exponentially growing bins whose counts fade by half every HALF_LIFE exchanges; before a
pair has enough of them, the model's over all teams; before that, a constant. Always within the model's own limit. Where
the ceiling is only held, an answer longer than it overruns the hold for as long as it runs; where it is enforced
(`strict`), it is cut: hence two policies.

Chosen with `bench/reservation.py` on the Azure 2023 traces (28,185 requests: code and conversation; see there for what
is assumed). Held over used, after learning: 1.11 (code) and 1.31 (conversation) of all tokens,
1.08 and 1.23 weighted by how long they are held; of output tokens alone 9.5 and 3.1, since half the code answers have
13 tokens or fewer and one in a hundred over 250. Refused or clamped although an oracle would have admitted: 0.005 %
under a day's budget that just suffices, 0.04 % under a minute's limit of exactly the busiest minute; at half of that,
where the oracle refuses 14.3 and 9.7 %, we refuse or clamp 13.9 and 11.0 %. The enforced policy cuts 0.1 % of answers,
holds 1.43 and 1.54 times what is used, and refuses or clamps at most 0.06 % falsely. A lower quantile (0.95: 1.03 and
1.20) saves little and lets 3 to 5 % of answers overrun their hold. Half-lives of 200 to 5,000 differ by under 0.02.
"""

import math
from collections import OrderedDict

import msgspec

HALF_LIFE = 1_000  # exchanges
MAX_PAIRS = 4_096  # least recently observed are forgotten first
BINS_PER_OCTAVE = 8  # a ceiling is at most 9 % above the quantile
MOST_LENGTH = 4.0
_RESCALE = 1e12


class Policy(msgspec.Struct, frozen=True):
    """How sure a ceiling is to be, how many exchanges that takes, and what to hold until there are as many."""

    quantile: float
    min_samples: float
    cold_start_tokens: int


HELD = Policy(quantile=0.99, min_samples=30, cold_start_tokens=1_024)
ENFORCED = Policy(quantile=0.999, min_samples=300, cold_start_tokens=4_096)


class Sketch:
    """A fading histogram of token counts: at most 8 bins per power of two."""

    def __init__(self, bins: dict[int, float] | None = None) -> None:
        self._bins = bins or {}
        self._sum = sum(self._bins.values())
        self._unit = 1.0  # weight of the next observation; grows, so that earlier ones fade
        self._top: dict[float, int] = {}

    @property
    def samples(self) -> float:
        """Observations, faded."""
        return self._sum / self._unit

    def observe(self, tokens: int, half_life: float = HALF_LIFE) -> None:
        """Add one count of output tokens (>= 0)."""
        self._unit *= 2 ** (1 / half_life)
        if self._unit > _RESCALE:
            self._bins = self.weights()
            self._sum = sum(self._bins.values())
            self._unit = 1.0
        index = _bin(tokens)
        self._bins[index] = self._bins.get(index, 0.0) + self._unit
        self._sum += self._unit
        self._top.clear()

    def quantile(self, q: float) -> int:
        """Tokens that a share `q` of the observations did not exceed, up to a bin's upper edge; 0 when empty."""
        if q not in self._top:
            self._top[q] = self._quantile(q)
        return self._top[q]

    def _quantile(self, q: float) -> int:
        left = q * self._sum
        for index in sorted(self._bins):
            left -= self._bins[index]
            if left <= 0:
                return _upper_edge(index)
        return _upper_edge(max(self._bins)) if self._bins else 0

    def weights(self) -> dict[int, float]:
        """Bins and their faded counts, the vanishing ones left out."""
        return {index: weight / self._unit for index, weight in self._bins.items() if weight / self._unit > 1e-4}


class OutputEstimates:
    """Output ceilings per team and model. One instance learns; others hold what it dumped."""

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        self._half_life = half_life
        self._sketches: OrderedDict[tuple[str, str], Sketch] = OrderedDict()

    def observe(self, team: str, model: str, output_tokens: int, n: int = 1) -> None:
        """An exchange of `team` with `model` ended whole, with `output_tokens` over its `n` choices.

        Cut exchanges must not be observed: they would teach that answers are short.
        """
        each = max(0, output_tokens) // max(1, n)
        for key in ((team, model), ("", model)):
            sketch = self._sketches.get(key)
            if sketch is None:
                sketch = self._sketches[key] = Sketch()
            sketch.observe(each, self._half_life)
            self._sketches.move_to_end(key)
        while len(self._sketches) > MAX_PAIRS:
            self._sketches.popitem(last=False)

    def ceiling(
        self, team: str, model: str, max_tokens: int | None, model_max: int | None, *, n: int = 1, policy: Policy = HELD
    ) -> int:
        """Output tokens to hold for all `n` choices. `max_tokens`: the client's; `model_max`: the model's own limit."""
        each = self._learnt(team, model, policy) if max_tokens is None else max_tokens
        return max(1, each if model_max is None else min(each, model_max)) * max(1, n)

    def length(self, team: str, model: str, max_tokens: int | None) -> float:
        """A team's long answers against the model's, 1 to MOST_LENGTH; 1 where nothing is known."""
        usual, own = self._learnt("", model, HELD), self._learnt(team, model, HELD)
        own = own if max_tokens is None else min(own, max_tokens)
        return min(max(1.0, own / max(1, usual)), MOST_LENGTH)

    def _learnt(self, team: str, model: str, policy: Policy) -> int:
        for key in ((team, model), ("", model)):
            sketch = self._sketches.get(key)
            if sketch is not None and sketch.samples >= policy.min_samples:
                return sketch.quantile(policy.quantile)
        return policy.cold_start_tokens

    def dump(self) -> bytes:
        """Everything learnt, as MessagePack; about 200 bytes a pair."""
        rows = [(team, model, sketch.weights()) for (team, model), sketch in self._sketches.items()]
        return msgspec.msgpack.encode(rows)

    def load(self, data: bytes) -> None:
        """Take over what another instance dumped, forgetting what was here. Raises ValueError on anything else."""
        try:
            rows = msgspec.msgpack.decode(data, type=list[tuple[str, str, dict[int, float]]])
        except msgspec.DecodeError as error:
            raise ValueError(f"not a dump of output estimates: {error}") from None
        self._sketches = OrderedDict(((team, model), Sketch(bins)) for team, model, bins in rows[-MAX_PAIRS:])


def _bin(tokens: int) -> int:
    return math.ceil(math.log2(tokens) * BINS_PER_OCTAVE) if tokens > 0 else -1


def _upper_edge(index: int) -> int:
    return 0 if index < 0 else math.floor(2 ** (index / BINS_PER_OCTAVE) + 1e-9)
