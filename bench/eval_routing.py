"""`make eval-routing`: how good the shipped classifier is, beside what it must beat.

In: the routing data (`train.outcomes`), the shipped weights. Out: tables on standard output: APGR and CPT with 95 %
bootstrap intervals on both held-out sides, the paired difference to prompt length, what is saved at 95 % of the strong
model's quality, time and memory. Without the data it says what it lacks and stops. Reported as measured.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extproc.records import ChatRequest
from extproc.routing.classify import classify
from extproc.routing.policy import Policy
from train.metrics import Floats, apgr, cpt, interval, weak_share
from train.outcomes import DEFAULT, STRONG, STRONG_MMLU, WEAK, WEAK_MMLU, llmrouter, mmlu, rephrased, stripped

PRICES = {"gpt-4o-mini": 0.15, "gpt-4o": 2.5, "Claude Opus": 15.0}  # USD per 1M input tokens
QUALITY = 0.95
CHARS = 4_000
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
        f"  {'':14} {'CPT(50 %)':>20} {'CPT(80 %)':>20} {'APGR':>20}  to weak at 95 %   saved on {', '.join(pairs())}"
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
    """CPT(50 %), CPT(80 %), APGR with their intervals; the weak share at the quality, and what that saves."""
    measures: tuple[tuple[int, Measure], ...] = (
        (1, lambda score, weak, strong: cpt(score, weak, strong, 0.5)),
        (1, lambda score, weak, strong: cpt(score, weak, strong, 0.8)),
        (3, apgr),
    )
    cells = [cell(measure, digits, order, weak, strong) for digits, measure in measures]
    share = weak_share(order, weak, strong, QUALITY)
    saved = ", ".join(f"{100 * share * (1 - cheap / dear):.0f} %" for cheap, dear in pairs().values())
    return f"{' '.join(cells)}  {100 * share:13.0f} %   {saved}"


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
    everything = "\n\n".join(prompts)
    texts = [asked(everything[at : at + CHARS]) for at in range(0, len(everything) - CHARS, CHARS // 10)]
    clocks = {"CPU": time.thread_time, "wall": time.perf_counter}
    took: dict[str, list[float]] = {name: [] for name in clocks}
    for text in texts:
        began = {name: clock() for name, clock in clocks.items()}
        classify(text, Policy())
        for name, clock in clocks.items():
            took[name].append(1000 * (clock() - began[name]))
    print(f"\nclassify, {CHARS} characters of LLMRouter's held-out prompts, {len(texts)} texts:")
    for name, times in took.items():
        middle, worst = np.percentile(times[20:], [50, 99])
        print(f"  {name}: p50 {middle:.2f} ms, p99 {worst:.2f} ms")
    done = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True)
    print(f"resident memory it adds to a process, numpy and the mapped table included: {done.stdout.strip()} MB")


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
