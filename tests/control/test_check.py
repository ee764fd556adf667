"""`gateway check` as an operator meets it: what a file does, and one line for each thing that is wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from control.arguments import demo_config
from tests.control.command import check, config, run

MOCK = {"name": "mock", "provider": "demo", "price": {"input": 1, "output": 2}, "context": 1000}
SHORT = {"equivalents": [{"models": ["mock", "gpt-4o"]}]}


def team(**of_it: Any) -> dict[str, Any]:
    return {"teams": [{"id": "a", "keys": ["k"], **of_it}]}


class TestCheck:
    def test_it_explains_what_a_file_does(self, file: Path) -> None:
        settings = config(
            equivalents=[{"models": ["gpt-4o", "mock"]}],
            routing={"auto": {"hard": ["gpt-4o"]}},
            admin={"keys": ["sk-admin"]},
        )
        settings["teams"][0] |= {"budget": {"daily_tokens": 1000, "strict": True}, "models": ["gpt-*"]}
        code, out, err = check(file, settings)
        assert (code, err) == (0, "")
        for text in ("https://api.openai.com/v1", "built-in simulator", "then mock", "daily_tokens 1,000", "strict"):
            assert text in out
        assert "hard  gpt-4o" in out
        assert "routing.auto.simple: has no model" in out

    def test_a_models_own_tier_counts_where_routing_names_none(self, file: Path) -> None:
        def tiers(**changes: Any) -> dict[str, list[str]]:
            found: dict[str, list[str]] = json.loads(check(file, config(**changes), "--json")[1])["auto"]
            return found

        assert tiers() == {"hard": ["gpt-4o"]}
        assert tiers(routing={"auto": {"simple": ["mock"]}}) == {"simple": ["mock"]}

    @pytest.mark.parametrize(
        ("cache", "line"),
        [
            ({}, "cache: off"),
            ({"exact": True}, "cache: the same request, for 24h; each team apart"),
            (
                {"exact": True, "ttl": "90m", "temperature_above_zero": True, "tool_calls": True, "record": False},
                "cache: the same request, for 90m; also at a temperature above 0; also answers that call tools; nothing"
                " new is kept; each team apart",
            ),
            (
                {"exact": True, "semantic": {"enabled": True, "max_wrong_hit_rate": 0.005}},
                "cache: the same request, for 24h; similar ones too, asked at temperature 0 (unset is above), with at"
                " most 0.5 % wrong; each team apart",
            ),
        ],
    )
    def test_it_explains_the_cache(self, file: Path, cache: dict[str, Any], line: str) -> None:
        assert line in check(file, config(cache=cache))[1].splitlines()

    def test_for_programs(self, file: Path) -> None:
        code, out, _ = check(file, config(), "--json")
        explained = json.loads(out)
        assert code == 0
        assert [model["name"] for model in explained["models"]] == ["gpt-4o", "mock"]
        assert explained["teams"][0]["models"] == ["auto", "gpt-4o", "mock"]

    def test_it_shows_no_key_and_no_credential(self, file: Path) -> None:
        settings = config(admin={"keys": ["sk-admin"]}, state={"url": "redis://:hunter2@db:6379"})
        for options in ((), ("--json",)):
            _, out, err = check(file, settings, *options)
            assert not [
                secret for secret in ("sk-live-4711", "sk-search", "sk-admin", "hunter2") if secret in out + err
            ]

    @pytest.mark.parametrize(
        ("changes", "warning"),
        [
            ({"admin": {"keys": []}}, "admin.keys: none"),
            ({"routing": {"attempts": 2}}, "without equivalents there is no failover"),
            ({"teams": [{"id": "a", "keys": ["k"], "models": ["claude*"]}]}, "teams[0].models[0]: claude* matches no"),
            ({"models": [{"name": "mock", "provider": "demo"}]}, "models[0].price: mock has no input and no output"),
            ({"models": [{"name": "mock", "provider": "demo"}]}, "providers.openai: no model uses it"),
            ({"models": [{"name": "mock", "provider": "demo"}]}, "models[0].context: mock has none"),
            ({"cache": {"semantic": {"enabled": True}}}, "cache.semantic.enabled: has no effect"),
            ({"cache": {"exact": True, "max_entry_bytes": 10**9}}, "cache.max_entry_bytes: is larger"),
            ({"audit": {"url": "postgresql://u:hunter2@db/gw"}}, "audit.url: rows may travel unencrypted"),
            (
                {"cache": {"exact": True}, "teams": [{"id": "a", "keys": ["k"], "cache": {"shared": True}}]},
                "only one team has cache.shared",
            ),
            ({"timeouts": {"connect": "10m"}}, "timeouts.connect: is no shorter than timeouts.idle, which ends"),
            (SHORT | {"timeouts": {"idle": "60s"}}, "routing.deadlines.cold_whole: is no shorter than timeouts.idle"),
            (SHORT | {"timeouts": {"request": "20s"}}, "routing.deadlines.cold: is no shorter than timeouts.request"),
            (
                SHORT | {"timeouts": {"idle": "60s"}, "routing": {"first_byte_timeout": "60s"}},
                "routing.first_byte_timeout: is no shorter than timeouts.idle",
            ),
            ({"budgets": {"hold_lease": "1m"}}, "budgets.hold_lease: is shorter than timeouts.request"),
            (
                {"models": [MOCK | {"context": 100, "max_output": 200}]},
                "models[0].max_output: is more than its context",
            ),
            (
                {"models": [MOCK], "routing": {"rules": [{"when": {"has_code": True}, "tier": "hard"}]}},
                "routing.rules: has no effect, for `auto` has no models",
            ),
            ({"models": [MOCK], "routing": {"target": {"save_pct": 30}}}, "routing.target: has no effect"),
            (team(budget={"daily_tokens": 0}), "teams[0].budget.daily_tokens: is 0, which refuses every request"),
            (team(limits={"requests_per_minute": 0}), "teams[0].limits.requests_per_minute: is 0"),
            (
                team(budget={"daily_tokens": 100, "monthly_tokens": 90}),
                "teams[0].budget.daily_tokens: is more than budget.monthly_tokens, which is reached first",
            ),
            (
                team(budget={"daily_usd": 2, "monthly_usd": 1}),
                "teams[0].budget.daily_usd: is more than budget.monthly_usd",
            ),
            (
                team(budget={"daily_tokens": 100}, limits={"tokens_per_minute": 101}),
                "teams[0].limits.tokens_per_minute: is more than budget.daily_tokens",
            ),
            (team(budget={"strict": True}), "teams[0].budget.strict: has no effect without a budget"),
            (team(budget={"burst_tokens": 5}), "teams[0].budget.burst_tokens: has no effect without"),
            (team(alert={"webhook": "https://x.example"}), "teams[0].alert.webhook: has no effect without a budget"),
            (
                team(budget={"daily_usd": 1}) | {"models": [MOCK, {"name": "own", "provider": "demo"}]},
                "teams[0].budget: is in USD, of which the use of own counts as nothing, for want of a price",
            ),
            (
                team(budget={"daily_usd": 1, "strict": True}) | {"models": [{"name": "own", "provider": "demo"}]},
                "the use of own is refused, for want of a price",
            ),
        ],
    )
    def test_what_is_probably_not_meant(self, file: Path, changes: dict[str, Any], warning: str) -> None:
        code, out, _ = check(file, config(**changes))
        assert code == 0
        assert warning in out
        assert "hunter2" not in out

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"routnig": {}}, "routnig: unknown key; did you mean routing?"),
            ({"cache": {"coalesce": 1}}, "cache.coalesce: unknown key; did you mean coalesce_wait?"),
            ({"cache": {"coalesce_wait": "1m"}}, "cache.coalesce_wait: input should be less than or equal to 25"),
            ({"cache": {"ttl": "soon"}}, "cache.ttl: not a duration"),
            ({"routing": {"atempts": 2}}, "routing.atempts: unknown key; did you mean attempts?"),
            (
                {"teams": [{"id": "a", "keys": ["k"], "budget": {"daily_token": 1}}]},
                "teams[0].budget.daily_token: unknown key; did you mean daily_tokens?",
            ),
            (
                {"providers": {"p": {"format": "demo", "base_ulr": "x"}}},
                "providers.p.base_ulr: unknown key; did you mean",
            ),
            ({"audit": {"url": "mysql://u:hunter2@db/gw"}}, "audit.url: must be `embedded` or such as postgresql://"),
            ({"audit": {"url": "postgresql://u:hunter2/@db/gw"}}, "audit.url: must be `embedded` or such as"),
            ({"audit": {"url": "postgresql://u:hunter2@x@db/gw"}}, "audit.url: must be `embedded` or such as"),
            ({"audit": {"url": "postgresql://db"}}, "audit.url: must be `embedded` or such as"),
            ({"audit": {"partition": "year"}}, "audit.partition: input should be 'day', 'week' or 'month'"),
            ({"xyzzy": 1}, "xyzzy: unknown key\n"),
            ({"models": [{"name": "m", "provider": "opnai"}]}, "no provider is named opnai; did you mean openai?"),
            (
                {"equivalents": [{"models": ["mock", "gpt-4o"], "rewrite": {"gpt4o": "Be brief."}}]},
                "equivalents[0].rewrite.gpt4o: is not in this group",
            ),
            ({"equivalents": [{"models": ["mock", "gpt-4o", "mock"]}]}, "equivalents[0].models[2]: mock stands there"),
            (
                {"cache": {"exact": True}, "timeouts": {"idle": "10s"}},
                "cache.coalesce_wait: is no shorter than timeouts.idle, which would end a request that waits",
            ),
            ({"listen": {"port": 9000, "ops": {"port": 9000}}}, "listen.ops.port: is listen.port too"),
            (
                {"routing": {"rules": [{"when": {"min_chars": 9, "max_chars": 8}, "tier": "hard"}]}},
                "routing.rules[0].when: min_chars: is more than max_chars",
            ),
            ({"equivalents": [{"models": ["mock", "gpt-4"]}]}, "equivalents[0].models[1]: no model is named gpt-4"),
            ({"listen": {"host": "gateway.internal"}}, "listen.host: not an address: write 127.0.0.1, 0.0.0.0, ::1 or"),
            ({"cache": None}, "cache: should be a mapping of names to values, not null"),
            ({"models": {"name": "m"}}, "models: should be a list\n"),
            ({"equivalents": [{"models": ["mock"]}]}, "equivalents[0].models: needs 2 or more"),
            (
                {"providers": {"a": {"format": "anthropic", "base_url": "http://a", "unsupported": ["seed"]}}},
                "providers.a: unsupported: only with format: openai or azure",
            ),
            (
                {"providers": {"o": {"format": "demo", "unsupported": ["max_tokens", "max_completion_tokens"]}}},
                "providers.o: unsupported: without max_tokens and max_completion_tokens no answer has a limit",
            ),
            (
                {"providers": {"o": {"format": "demo", "unsupported": ["messages"]}}},
                "providers.o: unsupported: there is no request without messages",
            ),
            ({"workers": 0}, "workers: input should be greater than or equal to 1"),
            ({"providers": {"o": {"format": "openai"}}}, "providers.o: base_url: needed unless format is demo"),
            (
                {"providers": {"o": {"format": "openai", "base_url": "https://me:hunter2@host/v1"}}},
                "providers.o: base_url: must not have a user or a password in it; credential is for it",
            ),
            ({"teams": [{"id": "a", "keys": []}]}, "teams[0].keys: at least one is needed"),
            ({"teams": [{"id": "a", "keys": ["k"]}, {"id": "b", "keys": ["k"]}]}, "the same key belongs to a"),
            ({"teams": [{"id": "a", "keys": ["${NOT_SET_ANYWHERE}"]}]}, "environment variable NOT_SET_ANYWHERE is not"),
        ],
    )
    def test_what_is_wrong_is_one_line_that_names_the_key(self, file: Path, changes: dict[str, Any], line: str) -> None:
        code, out, err = check(file, config(**changes))
        assert (code, out) == (2, "")
        assert line in err
        assert all(text.startswith(f"{file}: ") for text in err.splitlines())
        assert "hunter2" not in err

    def test_every_problem_is_told_at_once(self, file: Path) -> None:
        _, _, err = check(file, config(workers=0, cache={"ttl": "soon"}, xyzzy=1))
        assert len(err.splitlines()) == 3

    def test_a_variable_that_is_not_set_hides_nothing_else(self, file: Path) -> None:
        settings = config(xyzzy=1, listen={"port": "${NO_PORT}"})
        settings["providers"]["openai"]["credential"] = "${NO_KEY}"
        _, _, err = check(file, settings)
        assert sorted(line.removeprefix(f"{file}: ") for line in err.splitlines()) == [
            "listen.port: the environment variable NO_PORT is not set",
            "providers.openai.credential: the environment variable NO_KEY is not set",
            "xyzzy: unknown key",
        ]

    def test_what_a_server_is_not_sent(self, file: Path) -> None:
        settings = config()
        settings["providers"]["strict"] = {"format": "openai", "base_url": "https://api.mistral.ai/v1"}
        _, out, _ = check(file, settings)
        names = "cache_control, developer, max_completion_tokens, metadata, reasoning, reasoning_content"
        assert f"  without {names}, " in out

    def test_what_a_model_is_not_sent(self, file: Path) -> None:
        settings = config()
        settings["providers"]["azure"] = {"format": "azure", "base_url": "https://mine.openai.azure.com/openai/v1"}
        settings["models"].append({"name": "new", "provider": "azure", "upstream_name": "gpt-5.1"})
        _, out, _ = check(file, settings)
        assert next(line for line in out.splitlines() if line.endswith("  without max_tokens")).startswith("  new ")

    @pytest.mark.parametrize(
        ("host", "region"),
        [
            ("bedrock-runtime.eu-west-1.amazonaws.com", "eu-west-1"),
            ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("vpce-0a1b.bedrock-runtime.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ],
    )
    def test_bedrock_without_a_credential_is_signed_for_its_region(self, file: Path, host: str, region: str) -> None:
        settings = config()
        settings["providers"]["aws"] = {"format": "bedrock", "base_url": f"https://{host}"}
        _, out, err = check(file, settings)
        assert not err
        assert f"signed for {region} with Envoy's AWS credentials" in out

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"base_url": "https://proxy.example.com"}, "a Bedrock API key is needed, or a base_url whose host names"),
            ({"credential": ""}, "is empty; leave the key out"),
        ],
    )
    def test_bedrock_needs_a_credential_or_a_region(self, file: Path, given: dict[str, str], says: str) -> None:
        settings = config()
        settings["providers"]["aws"] = {
            "format": "bedrock",
            "base_url": "https://bedrock-runtime.eu-west-1.amazonaws.com",
        }
        settings["providers"]["aws"] |= given
        _, _, err = check(file, settings)
        assert err.startswith(f"{file}: providers.aws.credential: {says}")
        assert len(err.splitlines()) == 1

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a: [", "not YAML: line 1, column 5: expected the node content, but found '<stream end>'"),
            ("a:\n\tb: 1", "not YAML: line 2, column 1: found character '\\t' that cannot start any token"),
            ("", "must be a mapping"),
            ("a: 1\na: 2", "'a' is written twice"),
            ("a: {b: 1}\n<<: {a: 2}\n<<: {b: 3}\na: 4", "'a' is written twice"),
            ("\xff", "cannot be"),
        ],
    )
    def test_what_is_no_configuration(self, file: Path, text: str, says: str) -> None:
        file.write_bytes(text.encode("latin-1"))
        code, _, err = run("check", str(file))
        assert (code, len(err.splitlines())) == (2, 1)
        assert says in err

    def test_what_is_written_once_and_merged(self, file: Path) -> None:
        merged = "models:\n- &first {provider: demo, name: one, tier: hard}\n- {<<: *first, name: two}\n"
        file.write_text(yaml.safe_dump(config(models=None)).replace("models: null\n", merged))
        code, out, _ = run("check", str(file), "--json")
        assert code == 0
        assert [(model["name"], model["tier"]) for model in json.loads(out)["models"]] == [
            ("one", "hard"),
            ("two", "hard"),
        ]

    def test_a_file_that_is_not_there(self, file: Path) -> None:
        assert run("check", str(file))[::2] == (2, f"{file}: cannot be read: No such file or directory\n")

    def test_the_demo_configuration_is_as_it_should_be(self) -> None:
        code, out, err = run("check", str(demo_config()))
        assert (code, err) == (0, "")
        assert "warnings" not in out
