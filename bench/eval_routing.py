"""`make eval-routing`: how good the shipped classifier is, beside what it must beat.

In: the routing data (`train.outcomes`), the shipped weights. Out: tables on standard output: APGR and CPT with 95 %
bootstrap intervals on both held-out sides, the paired difference to prompt length, what is saved at 95 % of the strong
model's quality, time in many scripts, memory. Without the data it says what it lacks and stops. Reported as measured.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.texts import KINDS
from extproc.records import ChatRequest
from extproc.routing.classify import classify
from extproc.routing.policy import Policy
from train.metrics import Floats, apgr, cpt, interval, weak_share
from train.outcomes import DEFAULT, STRONG, STRONG_MMLU, WEAK, WEAK_MMLU, llmrouter, mmlu, rephrased, stripped

PRICES = {"gpt-4o-mini": 0.15, "gpt-4o": 2.5, "Claude Opus": 15.0}  # USD per 1M input tokens
QUALITY = 0.95
CHARS, TEXTS, WARM_UP = 4_000, 500, 20
Measure = Callable[[Floats, Floats, Floats], float]
PUBLISHED = """Published for MMLU (RouteLLM, arXiv 2406.18665, all subjects), CPT(50 %) / CPT(80 %) / APGR:
  random 50.07 / 79.93 / .500, matrix factorisation 45.00 / 76.86 / .524 (with gold labels 35.46 / 71.40 / .597),
  BERT with gold 41.30 / 72.20 / .572, causal LLM with gold 35.49 / 70.31 / .600, SW ranking with gold
  35.40 / 71.55 / .603. On all subjects prompt length is 36.7 / 69.4 / .583 and an oracle 6.2 / 10.0 / 1.268."""


def main(folder: Path) -> None:
    """Print everything."""
    exams, answers = mmlu(folder), llmrouter(folder)
    exams, answers = exams.part(exams.held_out), answers.part(answers.held_out)
    weak, strong = exams.models[WEAK_MMLU], exams.models[STRONG_MMLU]
    for name, change in (("as they are", str), ("stripped", stripped), ("rephrased", rephrased)):
        title = f"MMLU, {len(set(exams.groups))} unseen subjects, {name}: Mixtral 8x7B -> GPT-4 1106"
        table(title, [change(prompt) for prompt in exams.prompts], weak, strong)
    print(PUBLISHED)
    for model in WEAK:
        table(
            f"LLMRouter, held out: {model} -> {STRONG}", answers.prompts, answers.models[model], answers.models[STRONG]
        )
    cost(answers.prompts)


def score(prompt: str) -> float:
    """The shipped classifier's score of a request with this prompt."""
    return classify(asked(prompt), Policy()).score


def asked(prompt: str) -> ChatRequest:
    """A request for `auto`."""
    return ChatRequest(body={"messages": [{"role": "user", "content": prompt}]}, model="auto")


def table(title: str, prompts: list[str], weak: Floats, strong: Floats) -> None:
    """One set: a row for each way to order its prompts."""
    lengths = np.array([len(prompt) for prompt in prompts], float)
    ours = np.array([score(prompt) for prompt in prompts])
    print(f"\n{title} (n = {len(prompts)}; right {weak.mean():.3f} -> {strong.mean():.3f})")
    print(
        f"  {'':14} {'CPT(50 %)':>20} {'CPT(80 %)':>20} {'APGR':>20} {'to weak at 95 %, %':>20}   saved on "
        + ", ".join(pairs())
    )
    rows = {
        "random": np.random.default_rng(0).random(len(prompts)),
        "prompt length": lengths,
        "classifier": ours,
        "oracle": strong - weak,
    }
    for name, order in rows.items():
        print(f"  {name:14} {row(order, weak, strong)}")

    def difference(at: NDArray[np.int64]) -> float:
        return apgr(ours[at], weak[at], strong[at]) - apgr(lengths[at], weak[at], strong[at])

    low, high = interval(difference, len(prompts))
    everything = np.arange(len(prompts))
    print(f"  APGR, classifier less prompt length, paired: {difference(everything):+.3f} [{low:+.3f}, {high:+.3f}]")


def row(order: Floats, weak: Floats, strong: Floats) -> str:
    """CPT(50 %), CPT(80 %), APGR, the weak share at the quality, with their intervals; and what that share saves."""
    measures: tuple[tuple[int, Measure], ...] = (
        (1, lambda score, weak, strong: cpt(score, weak, strong, 0.5)),
        (1, lambda score, weak, strong: cpt(score, weak, strong, 0.8)),
        (3, apgr),
        (0, lambda score, weak, strong: 100 * weak_share(score, weak, strong, QUALITY)),
    )
    cells = [cell(measure, digits, order, weak, strong) for digits, measure in measures]
    share = weak_share(order, weak, strong, QUALITY)
    saved = ", ".join(f"{100 * share * (1 - cheap / dear):.0f} %" for cheap, dear in pairs().values())
    return f"{' '.join(cells)}   {saved}"


def cell(measure: Measure, digits: int, order: Floats, weak: Floats, strong: Floats) -> str:
    """A measure and its interval."""
    low, high = interval(lambda at: measure(order[at], weak[at], strong[at]), len(order))
    return f"{measure(order, weak, strong):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".rjust(20)


def pairs() -> dict[str, tuple[float, float]]:
    """Cheap model against dear one, on the price list."""
    cheap = PRICES["gpt-4o-mini"]
    return {f"mini/{name}": (cheap, price) for name, price in PRICES.items() if price > cheap}


def cost(prompts: list[str]) -> None:
    """Time of `classify` for 4,000 characters, every text new to it, and what having it adds to a process."""
    english = "\n\n".join(prompts)
    starts = range(0, len(english) - CHARS, CHARS // 10)
    draw = random.Random(0)
    texts = {"LLMRouter's held-out prompts": [english[at : at + CHARS] for at in starts]}
    texts |= {name: [kind(draw, CHARS) for _ in range(TEXTS)] for name, kind in KINDS.items()}
    print(f"\nclassify, {CHARS} characters, ms:  CPU p50   p99    wall p50   p99   texts")
    for name, each in texts.items():
        took = np.array([timed(text) for text in each])[WARM_UP:]
        cells = (f"{value:6.2f}" for clock in range(2) for value in np.percentile(took[:, clock], [50, 99]))
        print(f"  {name:30} {'    '.join(cells)} {len(took):6}")
    done = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True)
    print(f"resident memory it adds to a process, numpy and the mapped table included: {done.stdout.strip()} MB")


def timed(text: str) -> tuple[float, float]:
    """Milliseconds of CPU, and by the clock."""
    request = asked(text)
    wall_s, cpu_s = time.perf_counter(), time.thread_time()
    classify(request, Policy())
    return 1000 * (time.thread_time() - cpu_s), 1000 * (time.perf_counter() - wall_s)


_MEMORY = """
import psutil, extproc.settings, extproc.chat
before = psutil.Process().memory_info().rss
from bench.eval_routing import asked
from extproc.routing.classify import classify
from extproc.routing.policy import Policy
for text in ("Hello", "Prove it. " * 400):
    classify(asked(text), Policy())
print(round((psutil.Process().memory_info().rss - before) / 1e6))
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
