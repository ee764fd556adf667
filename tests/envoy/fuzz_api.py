"""Whatever is sent to the API through a real Envoy: no 500, and every answer is as the document says.

Schemathesis makes requests of the document, valid ones and broken ones, with the keys of an administrator, of a team,
and of nobody. Teams, keys, models and providers named in paths and queries are mostly real ones, so that requests get
past the 404. `make fuzz-api` plays on for DURATION seconds.
"""

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks

from tests.envoy.harness import ADMIN_KEY, TEAM_KEY, Gateway, Simulator, base_config, bearer, running

load_all_checks()
# What a 5xx is depends: a provider that fails is 502 to 504, the shared state away 503. A 500 is a mistake of ours.
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
REFUSING = [checks.negative_data_rejection]
TEAM = "fuzzed"
REAL = {
    "id": [TEAM, "team-b", "gpt", "auto"],
    "name": ["openai", "google", "app.js"],
    "team_id": [TEAM, "team-b"],
    "model": ["gpt", "claude"],
}


class Fuzz:
    """The document of a running gateway, and what its operations are asked."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        document = gateway.http.get("/openapi.json").json()
        del document["security"], document["components"]["securitySchemes"]  # whose key it is, is drawn below
        self.schema = schemathesis.openapi.from_dict(document)
        self.schema.config.update(base_url=gateway.url)
        self.operations = [result.ok() for result in self.schema.get_all_operations()]
        self.asked = 0
        self.statuses: dict[int, int] = {}

    def prepare(self) -> None:
        """What the requests are about: a team with a limit, and a key of its own."""
        admin = bearer(ADMIN_KEY)
        body = {"id": TEAM, "budget": {"daily_tokens": 10**9}}
        self._gateway.http.post("/v1/teams", json=body, headers=admin)
        made = self._gateway.http.post(f"/v1/teams/{TEAM}/keys", json={}, headers=admin).json()
        REAL["key_id"] = [made["key_id"]]

    def play(self, operation: Any, examples: int, number: int, until_s: float = float("inf")) -> None:
        """Send `examples` of each kind to one operation. Raises what a check finds."""
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            self._play(mode, operation.as_strategy(generation_mode=mode), examples, number, until_s)

    def _play(self, mode: GenerationMode, cases: Any, examples: int, number: int, until_s: float) -> None:
        @seed(number)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=cases, draw=st.randoms(use_true_random=False))
        def one(case: Any, draw: random.Random) -> None:
            if time.monotonic() < until_s:
                self._ask(case, draw, mode)

        with suppress(Unsatisfiable):  # there is nothing to break about some requests
            one()

    def _ask(self, case: Any, draw: random.Random, mode: GenerationMode) -> None:
        if mode is GenerationMode.POSITIVE:
            for place in (case.path_parameters, case.query):
                for name in place or {}:
                    if name in REAL and draw.random() < 0.8:
                        place[name] = draw.choice(REAL[name])
        whose = TEAM_KEY if case.operation.definition.raw["x-access"] == "team" else ADMIN_KEY
        key = draw.choice([whose] * 8 + [TEAM_KEY, ADMIN_KEY, "sk-wrong"])
        response = case.call(headers=bearer(key))
        self.asked += 1
        self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
        wanted = CHECKS + (REFUSING if mode is GenerationMode.NEGATIVE else [])
        case.validate_response(response, checks=wanted)
        assert response.status_code != 500, case.as_curl_command()


@contextmanager
def alone() -> Iterator[Gateway]:
    """A gateway of its own."""
    pair = Simulator(), Simulator()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            with running(base_config(Path(folder) / "data", *pair)) as gateway:
                yield gateway
        finally:
            for simulator in pair:
                simulator.stop()


def main(seconds: float) -> None:
    """Play for so long, each round with another seed."""
    until_s = time.monotonic() + seconds
    number = int(time.time())
    with alone() as gateway:
        fuzz = Fuzz(gateway)
        while time.monotonic() < until_s:
            fuzz.prepare()
            for operation in fuzz.operations:
                fuzz.play(operation, 30, number, until_s)
            print(f"seed {number}: {fuzz.asked} requests, {dict(sorted(fuzz.statuses.items()))}", flush=True)
            number += 1


if __name__ == "__main__":
    main(float(sys.argv[1]))
