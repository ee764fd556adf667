"""An answer in the client's format comes to the same by Envoy alone and by a worker, however odd it is."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.envoy.harness import Config, Gateway, ask, bearer, running
from tests.envoy.scripted import Scripted, event, stream, whole

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
MESSAGE = {"role": "assistant", "content": "Hi."}
ANSWER = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}], "usage": USAGE}
ERROR = {"error": {"message": "It broke.", "type": "server_error"}}
BARE_ERROR = {"object": "error", "message": "It broke.", "type": "server_error"}
DONE = event("[DONE]")


def chunk(content: str = "", finish_reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return event({"choices": [choice], **more})


def counted(usage: Any) -> bytes:
    return event({"choices": [], "usage": usage})


HI, STOP, USED = chunk("Hi."), chunk("", "stop"), counted(USAGE)
STREAMS: dict[str, tuple[bytes, ...]] = {
    "usual": (HI, STOP, USED, DONE),
    "in one piece": (HI + STOP + USED + DONE,),
    "usage on the last": (HI, chunk("", "stop", usage=USAGE), DONE),
    "null usage on each": (chunk("Hi.", usage=None), chunk("", "stop", usage=None), USED, DONE),
    "usage that grows": (chunk("Hi.", usage={**USAGE, "completion_tokens": 1}), chunk("", "stop", usage=USAGE), DONE),
    "usage twice": (HI, STOP, USED, counted({**USAGE, "completion_tokens": 7}), DONE),
    "usage without choices": (HI, STOP, event({"usage": USAGE}), DONE),
    "usage in texts": (HI, STOP, counted({"prompt_tokens": "3", "completion_tokens": "2"}), DONE),
    "usage in floats": (HI, STOP, counted({"prompt_tokens": 3.0, "completion_tokens": 2.5}), DONE),
    "usage below zero": (HI, STOP, counted({"prompt_tokens": -3, "completion_tokens": 2}), DONE),
    "not done": (HI, STOP, USED),
    "not done, no usage": (HI, STOP),
    "done in a text": (chunk("data: [DONE]\n\n"), STOP, USED),
    "not finished": (HI, USED, DONE),
    "nothing": (),
    "half": (HI, HI[:-9]),
    "an error": (event(ERROR),),
    "an error behind": (HI, event(ERROR)),
    "an error, done": (HI, event(ERROR), DONE),
    "a bare error": (HI, event(BARE_ERROR)),
    "an error by name": (HI, event({"message": "It broke."}, "error")),
    "no error": (event({"error": None, "choices": []}), HI, STOP, USED, DONE),
    "no error, torn": (event({"error": None, "choices": []}), HI),
    "more behind": (HI, STOP, USED, DONE, chunk("more")),
    "CRLF": tuple(each.replace(b"\n", b"\r\n") for each in (HI, STOP, USED, DONE)),
    "CR": tuple(each.replace(b"\n", b"\r") for each in (HI, STOP, USED, DONE)),
    "no space": tuple(each.replace(b"data: ", b"data:") for each in (HI, STOP, USED, DONE)),
    "comments": (b": ping\n\n", HI, b": ping\n\n", STOP, USED, DONE),
}
WHOLES: dict[str, Any] = {
    "usual": ANSWER,
    **{
        f"usage {usage}": ANSWER | {"usage": usage}
        for usage in (
            None,
            {},
            [1],
            *({"prompt_tokens": count, "completion_tokens": 2} for count in ("3", 3.7, -3, 10**30, None)),
        )
    },
    "no error": ANSWER | {"error": None},
    "an error": ERROR,
    "a bare error": BARE_ERROR,
    **{f"choices {choices}": ANSWER | {"choices": choices} for choices in ([], None, [None], [{"index": 0}])},
    "no object": [1],
}


@pytest.fixture(scope="module")
def gateways(new_config: Callable[[], Config], scripted: Scripted) -> Iterator[list[Gateway]]:
    configs = []
    for way in ("native", "extproc"):
        config = new_config() | {"streams": {"same_format": way}, "cache": {"exact": False}}
        config["providers"]["scripted"] = {"format": "openai", "base_url": f"{scripted.url}/v1"}
        config["models"].append({"name": "odd", "provider": "scripted", "price": {"input": 1.0, "output": 4.0}})
        configs.append(config)
    with running(configs[0]) as alone, running(configs[1]) as worker:
        yield [alone, worker]


def outcome(gateway: Gateway, streamed: bool) -> dict[str, Any]:
    """What the client and the books are told. Of an answer that nobody counted its length tells, and events differ."""
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi", "odd", stream=streamed), headers=bearer())
    row = gateway.row(answer.headers["x-gateway-request-id"])
    told = ("status", "error_code", "http_status", "input_tokens", "estimated", "attempts")
    books = {name: row[name] for name in (*told, *(() if row["estimated"] else ("output_tokens", "cost_usd")))}
    error = '"error":{' in answer.text.replace('": ', '":')
    return books | {"answered": answer.status_code, "content": "Hi." in answer.text, "error": error}


def same(gateways: list[Gateway], streamed: bool) -> None:
    alone, worker = (outcome(gateway, streamed) for gateway in gateways)
    assert alone == worker


@pytest.mark.parametrize("name", STREAMS)
def test_of_a_stream(gateways: list[Gateway], scripted: Scripted, name: str) -> None:
    scripted.says(*stream(*STREAMS[name]))
    same(gateways, True)


@pytest.mark.parametrize("name", WHOLES)
def test_of_a_whole_answer(gateways: list[Gateway], scripted: Scripted, name: str) -> None:
    scripted.says(whole(json.dumps(WHOLES[name]).encode()))
    same(gateways, False)
