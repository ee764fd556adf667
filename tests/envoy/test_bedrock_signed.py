"""Requests to Bedrock signed by Envoy: the signature that arrives is worked out anew from what arrived with it."""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.envoy.harness import Config, Gateway, ask, running
from tests.envoy.scripted import RESET, Call, Scripted, whole

KEY_ID, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "a-session/token="
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc"
MESSAGE = {
    "type": "message",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 1},
}


@pytest.fixture(scope="module")
def gateway(
    new_config: Callable[[], Config], scripted: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    config = new_config()
    host = f"http://bedrock-runtime.us-east-1.localhost:{scripted.url.rpartition(':')[2]}"
    config["providers"]["aws"] = {"format": "bedrock", "base_url": host}
    config["models"] += [{"name": "nova", "provider": "aws", "upstream_name": MODEL}]
    config["models"] += [{"name": "nova-arn", "provider": "aws", "upstream_name": ARN}]
    config["models"] += [{"name": "nova-ha", "provider": "aws", "upstream_name": MODEL}]
    config["providers"]["plain"] = {"format": "openai", "base_url": f"{scripted.url}/v1"}
    config["models"] += [{"name": "plain", "provider": "plain"}, {"name": "plain-ha", "provider": "plain"}]
    config["models"] += [{"name": "nova-b", "provider": "aws", "upstream_name": MODEL}]
    config["equivalents"] += [{"models": ["nova-ha", "plain"]}, {"models": ["plain-ha", "nova-b"]}]
    file = tmp_path_factory.mktemp("aws") / "credentials"
    lines = (f"aws_access_key_id={KEY_ID}", f"aws_secret_access_key={SECRET}", f"aws_session_token={TOKEN}")
    file.write_text("[default]\n" + "\n".join(lines) + "\n")
    with running(config, {"AWS_SHARED_CREDENTIALS_FILE": str(file)}) as gateway:
        yield gateway


def answers(call: Call) -> list[bytes]:
    return [whole(json.dumps(MESSAGE).encode())]


def signature(call: Call, body: bytes) -> str:
    """As docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html has it."""
    scheme, _, rest = call.headers["authorization"].partition(" ")
    said = dict(part.strip().split("=", 1) for part in rest.split(","))
    day = call.headers["x-amz-date"][:8]
    scope = f"{day}/us-east-1/bedrock/aws4_request"
    assert (scheme, said["Credential"]) == ("AWS4-HMAC-SHA256", f"{KEY_ID}/{scope}")
    names = said["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(names)
    payload = hashlib.sha256(body).hexdigest()
    path = quote(call.path, safe="/-_.~")
    lines = "".join(f"{name}:{call.headers[name]}\n" for name in names)
    canonical = "\n".join(["POST", path, "", lines, ";".join(names), payload])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([scheme, call.headers["x-amz-date"], scope, digest])
    key = f"AWS4{SECRET}".encode()
    for part in (day, "us-east-1", "bedrock", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    assert hmac.new(key, text.encode(), "sha256").hexdigest() == said["Signature"]
    return said["Signature"]


def as_sent(call: Call) -> bytes:
    """Its body's bytes: the worker writes JSON without blanks, in the order read."""
    return json.dumps(call.body, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("model", ["nova", "nova-arn"])
@pytest.mark.parametrize("text", ["Grüße", "long " * 600_000], ids=["short", "long"])
def test_the_signature_is_right(gateway: Gateway, scripted: Scripted, model: str, text: str) -> None:
    scripted.does(answers)
    answer = gateway.client().chat.completions.create(**ask(text, model))
    assert answer.choices[0].message.content == "Hi"
    (call,) = scripted.calls
    assert call.headers["x-amz-security-token"] == TOKEN
    assert signature(call, as_sent(call))


def test_a_second_attempt_is_signed_anew(gateway: Gateway, scripted: Scripted) -> None:
    scripted.does(lambda call: [RESET] if len(scripted.calls) == 1 else answers(call))
    assert gateway.client().chat.completions.create(**ask("Hello", "nova")).choices[0].message.content == "Hi"
    assert len(scripted.calls) == 2
    for call in scripted.calls:
        assert signature(call, as_sent(call))


def test_a_stand_in_is_signed(gateway: Gateway, scripted: Scripted) -> None:
    scripted.does(lambda call: answers(call) if "/model/" in call.path else [whole(b"{}", status=503)])
    assert gateway.client().chat.completions.create(**ask("Hello", "plain-ha")).choices[0].message.content == "Hi"
    _, call = scripted.calls
    assert signature(call, as_sent(call))


def test_nobody_else_gets_a_signature(gateway: Gateway, scripted: Scripted) -> None:
    """Its token is half a credential."""

    def script(call: Call) -> list[bytes]:
        if "/model/" in call.path:
            return [whole(b"{}", status=503)]
        completion: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
        return [whole(json.dumps(completion).encode())]

    scripted.does(script)
    gateway.client().chat.completions.create(**ask("Hello", "nova-ha"))
    signed, other = scripted.calls
    assert signature(signed, as_sent(signed))
    assert other.path == "/v1/chat/completions"
    assert not [name for name in other.headers if name.startswith("x-amz-") or name == "authorization"]
