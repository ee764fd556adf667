"""A provider that refuses what it is asked in OpenAI's format, and answers in Anthropic's, half of it when let go.

In: `with_stand_in`, which puts it into a configuration. Out: `StandIn`, by which a test plays it.
"""

import json
import threading
from collections.abc import Iterator

from tests.envoy.harness import Config, Gateway
from tests.envoy.scripted import Call, Scripted, Step, event, stream, whole

TEXT = "A story that is told at some length. " * 50
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
USAGE = {"usage": {"input_tokens": 9, "output_tokens": 400}}


def with_stand_in(config: Config, scripted: Scripted, third: str) -> Config:
    """`config`, in which `another`, at the same provider as `odd`, stands in for it, and then the model `third`."""
    config["providers"]["other"] = {"format": "anthropic", "base_url": f"{scripted.url}/v1", "credential": "k"}
    price = {"input": 1.0, "output": 4.0}
    config["models"].append({"name": "another", "provider": "other", "max_output": 900, "price": price})
    config["equivalents"].append({"models": ["odd", "another", third]})
    return config


class StandIn:
    """The provider: answers in Anthropic's format with `first`, and with the `rest` when it is let go."""

    def __init__(self, gateway: Gateway, scripted: Scripted, first: list[bytes], rest: list[bytes]) -> None:
        self.go, self._gateway, self._scripted = threading.Event(), gateway, scripted
        self._first, self._rest, self._received = first, rest, self._bytes()
        scripted.does(self._answer)

    def _answer(self, call: Call) -> Iterator[Step]:
        if call.path.endswith("/chat/completions"):
            yield whole(b"{}", status=503)
            return
        yield from self._first
        self.go.wait(60)
        yield from self._rest

    @property
    def times_asked(self) -> int:
        return sum(call.path.endswith("/messages") for call in self._scripted.calls)

    def began(self) -> bool:
        """It was asked, and Envoy has what it answered so far."""
        sent = [*self._first, *(self._rest if self.go.is_set() else ())]
        return self.times_asked == 1 and self._bytes() == self._received + sum(map(len, sent))

    def _bytes(self) -> int:
        """What Envoy has received from it."""
        return self._gateway.counted("cluster.provider-other.upstream_cx_rx_bytes_total")


def answer_of(streamed: bool) -> tuple[list[bytes], list[bytes]]:
    """Half an answer, and the other half."""
    if not streamed:
        data = whole(json.dumps(MESSAGE | USAGE | {"content": [{"type": "text", "text": TEXT}]}).encode())
        return [data[: len(data) // 2]], [data[len(data) // 2 :]]
    piece = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}
    parts = stream(
        event({"type": "message_start", "message": MESSAGE | USAGE | {"content": []}}),
        event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        *(event(piece), event(piece), event({"type": "message_stop"})),
    )
    return parts[:4], parts[4:]
