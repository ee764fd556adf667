"""Providers of OpenAI's own format, the other ways: every chunk through the worker, and Azure's deployments."""

import json
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.envoy.harness import (
    PROVIDER_KEY,
    Config,
    Gateway,
    Simulator,
    ask,
    bearer,
    marker,
    raw_post,
    wait_until,
)

VERSION = "2024-10-21"


@pytest.fixture(scope="module", params=["extproc", "native"])
def config(
    new_config: Callable[[], Config], request: pytest.FixtureRequest, simulators: tuple[Simulator, Simulator]
) -> Config:
    config = new_config() | {"streams": {"same_format": request.param}}
    deployment = f"{simulators[0].url}/openai/deployments/my-gpt?api-version={VERSION}"
    config["providers"]["azure"] = {"format": "azure", "base_url": deployment, "credential": PROVIDER_KEY}
    price = {"input": 1.0, "output": 4.0}
    config["models"].append({"name": "az", "provider": "azure", "upstream_name": "my-gpt", "price": price})
    config["equivalents"].append({"models": ["az", "claude-b"]})
    return config


@pytest.fixture
def native(gateway: Gateway) -> bool:
    return bool(gateway.config["streams"]["same_format"] == "native")


@pytest.mark.parametrize("model", ["gpt", "az"])
class TestBothWays:
    def test_a_stream_is_the_whole_answer(self, gateway: Gateway, native: bool, model: str) -> None:
        create = gateway.client().chat.completions.create
        whole = create(**ask("A long story", model))
        raw = gateway.client().chat.completions.with_raw_response.create(**ask("A long story", model), stream=True)
        chunks: Any = list(raw.parse())
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert all(chunk.choices for chunk in chunks), "usage is hidden"
        row = gateway.row(raw.headers["x-gateway-request-id"])
        assert (row["status"], row["finish_reason"], row["native"]) == ("success", "stop", native)
        assert whole.usage is not None
        assert (row["input_tokens"], row["output_tokens"]) == (
            whole.usage.prompt_tokens,
            whole.usage.completion_tokens,
        )

    def test_a_stream_that_tells_no_usage_is_whole_all_the_same(self, gateway: Gateway, model: str) -> None:
        raw = gateway.client().chat.completions.with_raw_response.create(
            **ask(f"A long story {marker(no_usage=True)}", model), stream=True
        )
        chunks: Any = list(raw.parse())
        assert chunks[-1].choices[0].finish_reason == "stop"
        row = gateway.row(raw.headers["x-gateway-request-id"])
        assert (row["status"], row["error_code"], row["estimated"]) == ("success", None, True)
        assert row["output_tokens"] > 0

    @pytest.mark.parametrize(
        "fault", [{"crlf": True}, {"one_byte_chunks": True}, {"split_utf8": True}, {"gzip": True}], ids=str
    )
    def test_odd_bytes(self, gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any]) -> None:
        asked = ask(f"A long story {marker(**fault)}", model, stream=True, stream_options={"include_usage": True})
        chunks: Any = list(gateway.client().chat.completions.create(**asked))
        plain = gateway.client().chat.completions.create(**ask("A long story", model))
        said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert said == plain.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens  # type: ignore[union-attr]

    @pytest.mark.parametrize("fault", [{"error_in_stream": "true"}, {"end_mid_stream": True}], ids=str)
    def test_a_stream_that_breaks_off(
        self, gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any]
    ) -> None:
        asked = ask(f"A long story {marker(**fault)}", model, stream=True)
        raw = gateway.http.post("/v1/chat/completions", json=asked, headers=bearer())
        lines = [line for line in raw.text.splitlines() if line.startswith("data:")]
        assert json.loads(lines[-1].removeprefix("data:"))["error"]["message"]
        assert "[DONE]" not in raw.text
        assert gateway.row(raw.headers["x-gateway-request-id"])["status"] == "failed"

    def test_what_is_no_event(self, gateway: Gateway, primary: Simulator, native: bool, model: str) -> None:
        """Read by a worker, it is an error. Envoy alone passes what it does not read, as if there were no gateway."""
        asked = ask(f"A long story {marker(malformed_sse=True)}", model, stream=True)
        raw = gateway.http.post("/v1/chat/completions", json=asked, headers=bearer())
        row = gateway.row(raw.headers["x-gateway-request-id"])
        assert ("Bad Gateway" in raw.text, raw.text.endswith("data: [DONE]\n\n")) == (native, native)
        assert ('"code":"provider_error"' in raw.text) is not native
        assert row["status"] == ("success" if native else "failed")
        assert row["output_tokens"] > 0

    def test_a_client_that_leaves(self, gateway: Gateway, primary: Simulator, model: str) -> None:
        for _ in range(3):  # complete ones teach the bytes of a token
            list(gateway.client().chat.completions.create(**ask("A long story", model), stream=True))
        primary.reset()
        text = f"A long story {marker(chunks=60, chunk_interval_ms=50)}"
        began = time.time()
        with raw_post(gateway, ask(text, model, stream=True)) as connection:
            received = b""
            while received.count(b"data:") < 12:
                received += connection.recv(65536)
        wait_until(lambda: primary.total("aborted_by_client") == 1, 5, "the upstream request to be cancelled")
        assert gateway.new_row(began, "cancelled")["output_tokens"] > 0


def test_what_azure_sees(gateway: Gateway, primary: Simulator) -> None:
    """The deployment's path, its api-version, the key in its own header; no model that it does not know."""
    assert gateway.client().chat.completions.create(**ask("hi", "az")).model == "az"
    seen = primary.recent()[-1]
    assert seen["path"].startswith("/openai/deployments/my-gpt/chat/completions")
    assert "api-key" in seen["headers"]
    assert "authorization" not in seen["headers"]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_of_azure(gateway: Gateway, stream: bool) -> None:
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    tools: Any = [{"type": "function", "function": function}]
    asked = ask("call get_weather", "az")
    if stream:
        with gateway.client().chat.completions.stream(**asked, tools=tools) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = gateway.client().chat.completions.create(**asked, tools=tools).choices[0].message
    assert message.tool_calls is not None
    assert "city" in json.loads(message.tool_calls[0].function.arguments)


def test_azure_fails_over(gateway: Gateway, primary: Simulator) -> None:
    answer = gateway.client().chat.completions.create(**ask(marker(fail_provider="openai", status=503), "az"))
    assert answer.model == "claude-b"


def test_a_wrong_key_of_azures_is_not_the_clients_fault(
    gateway: Gateway, primary: Simulator, second: Simulator
) -> None:
    second.faults({"status": 500})
    primary.faults({"status": 401})
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", "az"))
    assert (caught.value.status_code, caught.value.code) == (502, "provider_error")
