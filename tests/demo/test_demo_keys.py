"""Keys that a simulator takes can be changed while it runs, as a provider's are when they are rotated."""

import httpx

from control.demo.server import DemoProvider
from control.demo.simulator import Options


async def test_keys_are_rotated_while_it_runs() -> None:
    async with (
        DemoProvider(options=Options(api_key="old")) as provider,
        httpx.AsyncClient(base_url=provider.url, timeout=20) as http,
    ):

        async def taken() -> list[str]:
            found = []
            for key in ("old", "new", "other"):
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                headers = {"authorization": f"Bearer {key}"}
                answer = await http.post("/v1/chat/completions", json=body, headers=headers)
                found += [key] if answer.status_code == 200 else []
            return found

        assert await taken() == ["old"]
        for keys in (["old", "new"], ["new"]):
            assert (await http.put("/_demo/keys", json=keys)).status_code == 200
            assert await taken() == keys
        assert (await http.put("/_demo/keys", json={"not": "a list"})).status_code == 400
        assert (await http.put("/_demo/keys", json=[])).status_code == 200
        assert await taken() == ["old", "new", "other"]
