"""What a configuration is with changes at run time applied."""

import hashlib

import pytest

from extproc.settings import Settings, SettingsError, parse
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.overrides import MadeKey, Overrides, TeamOverride, apply, merged, patched

CONFIG = """
admin: {keys: [sk-admin]}
providers: {openai: {format: openai, base_url: "http://127.0.0.1:9"}}
models: [{name: gpt, provider: openai}, {name: gpt-mini, provider: openai}]
teams:
  - {id: a, keys: [sk-a], budget: {daily_tokens: 1000, strict: true}, alert: {threshold_pct: [50, 80]}}
  - {id: b, keys: [sk-b]}
"""


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def settings() -> Settings:
    return parse(CONFIG, {})


def key(plain: str, expires_at: float | None = None) -> MadeKey:
    return MadeKey(digest(plain), plain[-4:], 0.0, "sha256:0", expires_at=expires_at)


def over(team: str = "a", **fields: object) -> Overrides:
    return Overrides(1, {team: TeamOverride(**fields)})  # type: ignore[arg-type]


def test_what_is_not_named_stays(settings: Settings) -> None:
    changed, problems = apply(settings, over(changes={"budget": {"daily_tokens": 5}}))
    assert not problems
    assert changed.teams[0].budget == settings.teams[0].budget.model_copy(update={"daily_tokens": 5})
    assert changed.teams[0].alert == settings.teams[0].alert
    assert changed.teams[1] == settings.teams[1]


def test_null_is_no_limit(settings: Settings) -> None:
    changed, _ = apply(settings, over(changes={"budget": {"daily_tokens": None}}))
    assert changed.teams[0].budget.daily_tokens is None


def test_a_later_patch_is_laid_over_an_earlier_one() -> None:
    first = merged({}, {"budget": {"daily_tokens": 1, "strict": True}})
    assert merged(first, {"budget": {"daily_tokens": None}, "models": ["x"]}) == {
        "budget": {"daily_tokens": None, "strict": True},
        "models": ["x"],
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"budget": {"daily_tokens": -1}}, "budget.daily_tokens: input should be greater than or equal to 0"),
        ({"budget": {"daly_tokens": 1}}, "budget.daly_tokens: unknown key; did you mean daily_tokens?"),
        ({"budget": None}, "budget: should be a mapping of names to values, not null"),
        ({"auto_downgrade": None}, "auto_downgrade: input should be a valid boolean"),
        ({"budget": {"timezone": "Mars/Base"}}, "budget.timezone: not a time zone"),
    ],
)
def test_a_patch_is_held_to_the_rules_of_the_file(settings: Settings, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        patched(settings.teams[0], changes)
    assert caught.value.problems[0].startswith(problem)


def test_what_no_longer_fits_is_left_out_and_told(settings: Settings) -> None:
    broken, problems = apply(settings, over(changes={"budget": {"xyzzy": 1}}))
    assert broken.teams == settings.teams
    assert problems == ["team a: budget.xyzzy: unknown key"]
    assert apply(settings, over("nobody", changes={"models": []}))[1] == ["team nobody: not in the configuration"]


def test_keys_made_and_revoked(settings: Settings) -> None:
    override = over(keys_made=(key("sk-new"),), keys_revoked={digest("sk-a"): 10.0})
    catalog = compile_snapshot(settings, override, 10.0).catalog
    assert catalog.teams[digest("sk-new")].id == "a"
    assert digest("sk-a") not in catalog.teams


def test_a_key_holds_until_it_ends_and_the_snapshot_knows_when(settings: Settings) -> None:
    """Seconds 0-9: both hold; 10-19: one was rotated away; from 20 on the other has expired."""
    override = over(keys_made=(key("sk-new", 20.0),), keys_revoked={digest("sk-a"): 10.0, digest("sk-new"): 30.0})
    for now_s, good, until_s in ((9.9, {"sk-a", "sk-new"}, 10.0), (10.0, {"sk-new"}, 20.0), (20.0, set(), 30.0)):
        snapshot = compile_snapshot(settings, override, now_s)
        keys = {name for name in ("sk-a", "sk-new") if digest(name) in snapshot.catalog.teams}
        assert (keys, snapshot.until_s) == (good, until_s)
    assert compile_snapshot(settings, override, 30.0).until_s is None


def test_a_team_made_at_run_time(settings: Settings) -> None:
    override = over("c", made=True, changes={"budget": {"daily_tokens": 5}}, keys_made=(key("sk-c"),))
    snapshot = compile_snapshot(settings, override)
    assert snapshot.catalog.teams[digest("sk-c")].settings.budget.daily_tokens == 5
    assert [team.id for team in snapshot.settings.teams] == ["a", "b", "c"]


def test_a_made_team_whose_settings_do_not_fit_any_more_is_out_rather_than_without_limits(settings: Settings) -> None:
    changed, problems = apply(settings, over("c", made=True, changes={"budgets": {}}, keys_made=(key("sk-c"),)))
    assert changed.teams == settings.teams
    assert problems == ["team c: budgets: unknown key; did you mean budget?"]


@pytest.mark.parametrize("taken", ["sk-b", "sk-admin"])
def test_a_key_that_the_file_gives_to_another_stays_there(settings: Settings, taken: str) -> None:
    snapshot = compile_snapshot(settings, over(keys_made=(key(taken),)))
    owner = snapshot.catalog.teams.get(digest(taken))
    assert owner is None if taken == "sk-admin" else owner is not None and owner.id == "b"


def test_models_are_compiled_anew_and_who_has_a_snapshot_keeps_it(settings: Settings) -> None:
    current = Current(compile_snapshot(settings))
    told: list[object] = []
    current.on_swap.append(told.append)
    before = current.snapshot
    current.swap(compile_snapshot(settings, over(changes={"models": ["gpt"]})))
    assert current.snapshot.catalog.teams[digest("sk-a")].models == {"gpt"}
    assert before.catalog.teams[digest("sk-a")].models == {"gpt", "gpt-mini"}
    assert told == [current.snapshot]
