"""Support traffic made from CLINC150, and the cache's answers to it, one request after the other.

In: prompts with their intents. Out: a stream of requests, and what became of each. The generator, its seed fixed:

- an intent is drawn by Zipf's law (exponent 0.8) over the intents in random order: some are asked for far more often;
- within it an utterance is drawn by Zipf's law (exponent 0.7) over its utterances in random order: popular wordings
  come back letter by letter, the others are paraphrases;
- one request in ten is out of scope, drawn evenly: nothing cached answers it but itself.

A hit is wrong if the cached utterance has another intent. The check of a hit is taken to find that out without fail,
which the comparison of two answers in the product does less well.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from bench.cache.cascade import CONTEXT, UNTIL_MS
from bench.cache.data import Prompt
from extproc.cache.calibrate import FLOOR, Tally, estimate
from extproc.cache.cascade import Candidate, Cascade, Models
from extproc.cache.confirm import Confirmer
from extproc.cache.index import Index
from extproc.embedding.static import StaticEmbedder

SEED = 20_150
REQUESTS = 10_000
INTENT_EXPONENT, UTTERANCE_EXPONENT = 0.8, 0.7
OUT_OF_SCOPE = 0.1


def traffic(
    inside: list[Prompt], outside: list[Prompt], requests: int = REQUESTS, seed: int = SEED
) -> Iterator[Prompt]:
    """The stream."""
    rng = random.Random(seed)
    intents: dict[str, list[Prompt]] = {}
    for prompt in inside:
        intents.setdefault(prompt.label, []).append(prompt)
    groups = list(intents.values())
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    weights = _zipf(len(groups), INTENT_EXPONENT)
    for _ in range(requests):
        if rng.random() < OUT_OF_SCOPE:
            yield rng.choice(outside)
        else:
            group = rng.choices(groups, weights)[0]
            yield rng.choices(group, _zipf(len(group), UTTERANCE_EXPONENT))[0]


def _zipf(count: int, exponent: float) -> list[float]:
    return [(rank + 1) ** -exponent for rank in range(count)]


class Served(NamedTuple):
    """What became of the traffic. Wrong hits are semantic ones: an exact hit is the same request."""

    requests: int
    exact: int
    semantic: int
    wrong: int
    checks: int  # hits that were asked of the provider too
    threshold: float  # at the end


async def serve(stream: Iterator[Prompt], *, share: float, limit: float, calibrated: bool = True) -> Served:
    """Every miss is kept. `share` of the semantic hits is checked, and every candidate that was not near enough."""
    rng, tally = random.Random(SEED), Tally()
    cascade = Cascade(Index(), Models(StaticEmbedder.load(), Confirmer.load()))
    label: dict[str, str] = {}
    requests = exact = semantic = wrong = checks = 0
    known = estimate(tally, limit)
    for prompt in stream:
        requests += 1
        if prompt.text in label:
            exact += 1
            continue
        found = await cascade.best(CONTEXT, prompt.text, 0, 60.0)
        near = isinstance(found, Candidate) and found.cosine >= FLOOR
        hit = isinstance(found, Candidate) and found.cosine >= known.threshold
        mistaken = isinstance(found, Candidate) and label[found.text] != prompt.label
        semantic, wrong = semantic + hit, wrong + (hit and mistaken)
        sampled = hit and rng.random() < share
        checks += sampled
        if calibrated and isinstance(found, Candidate) and (sampled or (near and not hit)):
            tally.add(found.cosine, wrong=mistaken)
            known = estimate(tally, limit)
        if not hit or sampled:
            label[prompt.text] = prompt.label
            cascade.learn(CONTEXT, prompt.text, prompt.text, UNTIL_MS)
    return Served(requests, exact, semantic, wrong, checks, known.threshold)
