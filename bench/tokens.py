"""Token counting: which library, how long, how wrong a sample is, what the vocabulary costs.

    python -m bench.tokens

Texts are what every checkout has: the standard library's and the installed packages' sources and descriptions, and made
up ones. HF `tokenizers` is compared when it is installed (its vocabulary is converted first, which takes a while).
"""

import base64
import importlib
import random
import statistics
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from extproc.records import Target
from extproc.tokens import EXACT_CHARS, Estimator, vocabulary

Count = Callable[[str], int]


def main() -> int:
    """Print everything."""
    process = psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    encoding = vocabulary()
    load_s = time.perf_counter() - began
    print(f"vocabulary: {load_s:.2f} s, {(process.memory_info().rss - before) / 1e6:.0f} MB RSS\n")
    texts = corpus()
    libraries: dict[str, Count] = {"tiktoken": lambda text: len(encoding.encode_ordinary(text))}
    if (converted := hugging_face()) is not None:
        libraries["tokenizers"] = converted
    print_libraries(libraries, "\n".join(texts["python"]))
    print_requests(texts)
    print_sample_error(texts, libraries["tiktoken"])
    return 0


def corpus() -> dict[str, list[str]]:
    """Texts of 10,000 characters and more, by kind."""
    rng = random.Random(0)
    standard = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    found = {
        "python": _read(sorted(standard.glob("*.py"))),
        "packages": _read(rng.sample(sorted(packages.rglob("*.py")), 400)),
        "markdown": _read(sorted(packages.glob("*.dist-info/METADATA"))),
        "base64": [base64.b64encode(rng.randbytes(30_000)).decode() for _ in range(5)],
        "chinese": ["".join(rng.choices(_CHINESE, k=2_000)) for _ in range(5)],
    }
    parts = zip(found["python"], found["markdown"], found["base64"] * 10, strict=False)
    found["mixed"] = ["".join(part) for part in parts]
    return {kind: [text for text in texts if len(text) > 10_000][:60] for kind, texts in found.items()}


_CHINESE = ["人工智能是计算机科学的一个分支", "它企图了解智能的实质。", "请把下面的句子翻译成英文", "2024年3月", "\n"]


def _read(paths: list[Path]) -> list[str]:
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
    return texts


def print_libraries(libraries: dict[str, Count], text: str) -> None:
    """Latency by length, and how long another thread stood still."""
    print("library     chars   tokens   p50 ms   p99 ms   longest stall of another thread, ms")
    for name, count in libraries.items():
        for chars in (900, EXACT_CHARS, 400_000):
            runs = 200 if chars < 100_000 else 5
            call = partial(count, text[:chars])
            stall = f"{_stall_ms(call):8.1f}" if chars > 100_000 else ""
            p50, p99 = _timed(call, runs)
            print(f"{name:10} {chars:6} {call():8} {p50:8.3f} {p99:8.3f} {stall}")
    print()


def _timed(call: Callable[[], object], runs: int) -> tuple[float, float]:
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1e3)
    taken.sort()
    return taken[len(taken) // 2], taken[min(len(taken) - 1, round(len(taken) * 0.99))]


def _stall_ms(call: Callable[[], object]) -> float:
    """The longest gap between two ticks of another thread while `call` runs."""
    gaps = [0.0]
    stop = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=tick)
    thread.start()
    call()
    stop.set()
    thread.join()
    return max(gaps) * 1e3


def print_requests(texts: dict[str, list[str]]) -> None:
    """Whole requests through the Estimator, texts made to be slow among them."""
    estimator = Estimator()
    target = Target(model="m", upstream_name="gpt-4o", provider="p", format="openai")
    long = "\n".join(texts["packages"])
    tools = [
        {"type": "function", "function": {"name": f"f{i}", "description": long[i * 99 : i * 99 + 99]}} for i in range(9)
    ]
    image = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(7_500_000)).decode()
    bodies: dict[str, object] = {
        "200 tokens": long[:900],
        "at the limit": long[:EXACT_CHARS],
        "400k characters": long[:400_000],
        "30 MB": (long * (1 + 30_000_000 // len(long)))[:30_000_000],
        "10 MB image": [{"type": "image_url", "image_url": {"url": image}}],
        "limit of lone surrogates": "\ud800" * EXACT_CHARS,
        "limit of emoji": "😀👍🏽" * (EXACT_CHARS // 3),
        "limit of spaces": " " * EXACT_CHARS,
        "a million spaces": " " * 1_000_000,
    }
    print("request                    tokens   p50 ms   p99 ms")
    for name, content in bodies.items():
        body = {"messages": [{"role": "user", "content": content}], "tools": tools if name == "200 tokens" else []}
        call = partial(estimator.input_tokens, body, target)
        p50, p99 = _timed(call, 50)
        print(f"{name:25} {call():7} {p50:8.3f} {p99:8.3f}")
    print()


def print_sample_error(texts: dict[str, list[str]], count: Count) -> None:
    """Sampled against exact; beside it 4.6 bytes per token."""
    estimator = Estimator()
    print("long texts     n  bytes/token   sample: mean   min    max     4.6 bytes/token: mean   min    max")
    for kind, long in texts.items():
        exact = [count(text) for text in long]
        sampled = [estimator.text_tokens([text]) / true - 1 for text, true in zip(long, exact, strict=True)]
        by_bytes = [len(text.encode()) / 4.6 / true - 1 for text, true in zip(long, exact, strict=True)]
        per = sum(len(text.encode()) for text in long) / sum(exact)
        print(f"{kind:12} {len(long):4} {per:10.2f}  {_spread(sampled)} {'':15} {_spread(by_bytes)}")


def _spread(errors: list[float]) -> str:
    return f"{statistics.mean(errors):+12.1%} {min(errors):+7.1%} {max(errors):+7.1%}"


def hugging_face() -> Count | None:
    """HF tokenizers with the same vocabulary; None when it is not installed."""
    try:
        hf = importlib.import_module("tokenizers")
    except ImportError:
        print("tokenizers is not installed: not compared\n")
        return None
    encoding = vocabulary()
    letters = _byte_letters()
    tokens = [encoding.decode_single_token_bytes(index) for index in range(199_998)]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            left, right = _last_merge(token, rank, ranks)
            merges.append((_spell(left, letters), _spell(right, letters)))
    vocab = {_spell(token, letters): rank for token, rank in ranks.items()}
    tokenizer = hf.Tokenizer(hf.models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    split = hf.pre_tokenizers.Split(hf.Regex(encoding._pat_str), "isolated")
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([split, hf.pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.encode_special_tokens = True
    return lambda text: len(tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


def _spell(token: bytes, letters: list[str]) -> str:
    return "".join(letters[byte] for byte in token)


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts `token` is merged from: merge its bytes by rank until two are left."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = [ranks.get(parts[at] + parts[at + 1], rank) for at in range(len(parts) - 1)]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


if __name__ == "__main__":
    sys.exit(main())
