"""Refusals of a provider's that another one may not make: about the operator's account, or a model that is no more."""

import json
from typing import Any

import openai
import pytest

from tests.envoy.harness import Gateway, ask
from tests.envoy.scripted import Scripted, whole
from tests.envoy.traps import config

__all__ = ["config"]

KEY = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
OURS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "no balance at DeepSeek": (
        "openai",
        402,
        {"message": "Insufficient Balance", "type": "unknown_error", "param": None, "code": "invalid_request_error"},
    ),
    "no credit at Anthropic": (
        "anthropic",
        400,
        {"type": "invalid_request_error", "message": "Your credit balance is too low to access the Anthropic API."},
    ),
    "a key that Google does not know": (
        "google",
        400,
        {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": [KEY]},
    ),
    "an organization that OpenAI does not know well enough": (
        "openai",
        400,
        {
            "message": "Your organization must be verified to stream this model.",
            "type": "invalid_request_error",
            "param": "stream",
            "code": "unsupported_value",
        },
    ),
    "more at once than Groq takes in a minute": (
        "openai",
        413,
        {"message": "Request too large", "type": "tokens", "code": "rate_limit_exceeded"},
    ),
    "a model that Groq has no more": (
        "openai",
        400,
        {"message": "It has been decommissioned.", "type": "invalid_request_error", "code": "model_decommissioned"},
    ),
    "a model that Anthropic has no more": (
        "anthropic",
        404,
        {"type": "not_found_error", "message": "model: claude-3-opus-20240229"},
    ),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("model", "status", "said"), OURS.values(), ids=OURS)
def test_goes_to_the_next(
    gateway: Gateway, scripted: Scripted, model: str, status: int, said: dict[str, Any], streamed: bool
) -> None:
    scripted.says(whole(json.dumps({"type": "error", "error": said}).encode(), status=status))
    create = gateway.client().chat.completions.with_raw_response.create
    raw: Any = create(**ask("hi", f"{model}-ha"), stream=streamed)
    choices = [choice for chunk in raw.parse() for choice in chunk.choices] if streamed else raw.parse().choices
    assert choices[-1].finish_reason == "stop"
    assert raw.headers["x-gateway-model"] == "gpt-b"
    assert not [name for name in raw.headers if name.startswith("x-gw-")]
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert (row["status"], row["attempts"], len(scripted.calls)) == ("fallback", 2, 1)


def test_where_there_is_no_next_the_client_is_told_what_concerns_it(gateway: Gateway, scripted: Scripted) -> None:
    _, status, said = OURS["no credit at Anthropic"]
    scripted.says(whole(json.dumps({"type": "error", "error": said}).encode(), status=status))
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", "anthropic"))
    assert (caught.value.status_code, caught.value.code) == (502, "provider_error")
    assert "credit" not in str(caught.value)


def test_a_mistake_of_the_clients_is_not_asked_of_others(gateway: Gateway, scripted: Scripted) -> None:
    said = {"message": "messages: too many images", "type": "invalid_request_error", "code": None}
    scripted.says(whole(json.dumps({"error": said}).encode(), status=400))
    with pytest.raises(openai.BadRequestError, match="too many images"):
        gateway.client().chat.completions.create(**ask("hi", "openai-ha"))
    assert len(scripted.calls) == 1
