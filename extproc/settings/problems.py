"""What is wrong with a gateway.yaml, told line by line, each beginning with the path of its key."""

import difflib
from typing import Any

from pydantic import ValidationError

from extproc.settings.fields import Section


class SettingsError(Exception):
    """The configuration cannot be used. `problems`: one line each, beginning with the path of the key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def dotted(path: tuple[str | int, ...]) -> str:
    """`("models", 0, "tier")` -> `models[0].tier`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


# In the file's words, where pydantic's are Python's.
_MAPPING = "should be a mapping of names to values"
_TOLD = {
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "list_type": "should be a list",
    "too_short": "needs {min_length} or more",
}


def explain(error: ValidationError, root: type[Section]) -> list[str]:
    """A line for each thing pydantic found wrong with a `root`."""
    lines = []
    for item in error.errors(include_url=False):
        loc = item["loc"]
        if item["type"] == "extra_forbidden":
            nearest = _nearest_key(loc, root)
            hint = f"; did you mean {nearest}?" if nearest else ""
            lines.append(f"{dotted(loc)}: unknown key{hint}")
        else:
            told = _TOLD.get(item["type"], "").format(**item.get("ctx", {}))
            text = told or item["msg"].removeprefix("Value error, ")
            null = ", not null" if told and item["input"] is None else ""
            lines.append(f"{dotted(loc)}: {text[0].lower() + text[1:]}{null}")
    return lines


def _nearest_key(loc: tuple[str | int, ...], root: type[Section]) -> str | None:
    """The known key nearest to the unknown one at `loc`, found by walking the types along the path."""
    schema = root.model_json_schema()
    node: dict[str, Any] = schema
    for part in loc[:-1]:
        node = _resolve(schema, node)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or _any_value(node)
    known = _resolve(schema, node).get("properties", {})
    matches = difflib.get_close_matches(str(loc[-1]), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _any_value(node: dict[str, Any]) -> dict[str, Any]:
    return next(iter(node.get("patternProperties", {}).values()), {})


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    node = next((option for option in node.get("anyOf", ()) if option.get("type") != "null"), node)  # X | None
    reference = node.get("$ref")
    resolved: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node
    return resolved


def unknown(kind: str, name: str, known: Any) -> str:
    """That there is no `kind` of that name, and which name was perhaps meant."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"no {kind} is named {name}" + (f"; did you mean {nearest[0]}?" if nearest else "")
