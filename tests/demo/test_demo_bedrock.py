"""The simulator's Bedrock: what it refuses, and how."""

from typing import Any

import httpx
import pytest

from control.demo.server import DemoProvider
from control.demo.simulator import Options

PATH = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1:0/invoke"
BODY = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}


async def test_it_answers_as_anthropic_does(http: httpx.AsyncClient) -> None:
    for path in (PATH, PATH.replace(":", "%3A")):
        answer = await http.post(path, json=BODY)
        assert answer.status_code == 200
        assert answer.json()["model"] == "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        (PATH, {"anthropic_version": "2023-06-01"}),
        (PATH, {"model": "claude-sonnet-4-5"}),
        (PATH, {"stream": True}),
        (PATH, {"max_tokens": 0}),
        (PATH, {"novelty": 1}),
        ("/model/unknown/invoke", {}),
    ],
)
async def test_it_refuses_what_the_service_refuses(http: httpx.AsyncClient, path: str, changed: dict[str, Any]) -> None:
    answer = await http.post(path, json=BODY | changed)
    assert answer.status_code == 400
    assert answer.headers["x-amzn-errortype"].startswith("ValidationException:")
    assert answer.json().keys() == {"message"}


async def test_its_key_is_a_bearers() -> None:
    async with DemoProvider(options=Options(api_key="k")) as demo, httpx.AsyncClient(base_url=demo.url) as http:
        for headers, status in (({"authorization": "Bearer k"}, 200), ({"x-api-key": "k"}, 403), ({}, 403)):
            assert (await http.post(PATH, json=BODY, headers=headers)).status_code == status
