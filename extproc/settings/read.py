"""gateway.yaml read: YAML text and the environment in, a frozen, fully checked `Settings` out.

Every problem is reported at once as a `SettingsError`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from extproc.pricing import PriceTableError, price_tables
from extproc.settings.files import with_files
from extproc.settings.models import ModelPrice
from extproc.settings.problems import SettingsError, dotted, explain
from extproc.settings.rules import cross_check
from extproc.settings.teams import Team
from extproc.settings.whole import Settings

_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def load(path: Path, env: Mapping[str, str]) -> Settings:
    """Read and check the file at `path`, and the files it names. Raises SettingsError with every problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([_unreadable(path, error)]) from None
    return with_files(parse(text, env))


def data_dir_of(path: Path, env: Mapping[str, str]) -> Path:
    """Where the file at `path` has its data, whatever else is wrong with it. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([_unreadable(path, error)]) from None
    raw = _document(text, forgiving=True)
    named = raw.get("data_dir") if isinstance(raw, dict) else None
    problems: list[str] = []
    expanded = _expand(named, env, ("data_dir",), problems) if isinstance(named, str) else ""
    if problems:
        raise SettingsError(problems)
    return Path(expanded or Settings.model_fields["data_dir"].default)


def variables(text: str) -> set[str]:
    """The names of the environment variables that a YAML text asks for."""
    return {match[1] for match in _ENV.finditer(text)}


def parse(text: str, env: Mapping[str, str], *, list_prices: bool = True) -> Settings:
    """Check YAML text. `env` gives the values of `${NAME}` and `${NAME:-default}`. Raises SettingsError."""
    raw = _document(text)
    if not isinstance(raw, dict):
        raise SettingsError(["the file must be a mapping with providers, models and teams"])
    unset: list[str] = []
    expanded = _expand(raw, env, (), unset)
    try:
        settings = Settings.model_validate(expanded)
    except ValidationError as error:
        wrong = explain(error, Settings)
        empty = {line.partition(": ")[0] for line in unset}  # of which only that is known
        raise SettingsError([*unset, *(line for line in wrong if line.partition(": ")[0] not in empty)]) from None
    problems = unset or list(cross_check(settings))
    if problems:
        raise SettingsError(problems)
    return with_list_prices(settings) if list_prices else settings


def with_list_prices(settings: Settings) -> Settings:
    """Fill in what gateway.yaml leaves open of its models' prices. Raises SettingsError."""
    try:
        tables = price_tables(settings.prices.file)
    except PriceTableError as error:
        raise SettingsError([f"prices.file: {problem}" for problem in error.problems]) from None
    models = []
    for model in settings.models:
        found = tables.find(settings.providers[model.provider].wire_format, model.upstream_name or model.name)
        listed = ModelPrice.model_validate(msgspec.to_builtins(found[0].price)) if found else ModelPrice()
        if listed.long_context is None:  # a listed model without tiers has none
            listed = listed.model_copy(update={"long_context": [] if found else None})
        own = {name: value for name, value in model.price if value is not None}
        models.append(model.model_copy(update={"price": listed.model_copy(update=own)}))
    return settings.model_copy(update={"models": models})


def parse_team(raw: Mapping[str, Any]) -> Team:
    """Check one team by itself, given as JSON's values: "5" is no number there. Raises SettingsError; paths begin below
    the team."""
    try:
        return Team.model_validate_json(msgspec.json.encode(raw), strict=True)
    except ValidationError as error:
        raise SettingsError(explain(error, Team)) from None


def _document(text: str, *, forgiving: bool = False) -> Any:
    from extproc.settings.document import document  # noqa: PLC0415 - PyYAML: serving processes read no YAML

    return document(text, forgiving=forgiving)


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> str:
    return f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"


def _expand(value: Any, env: Mapping[str, str], path: tuple[str | int, ...], problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, env, (*path, key), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, env, (*path, index), problems) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = env.get(match[1], match[2])
        if found is None:
            problems.append(f"{dotted(path)}: the environment variable {match[1]} is not set")
        return found or ""

    return _ENV.sub(replace, value)
