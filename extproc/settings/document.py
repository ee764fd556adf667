"""YAML text -> plain data; what is wrong with it, in one line.

In: text. Out: what it says; SettingsError. Called by `read`, which imports it only when there is something to read.
"""

from typing import Any

import yaml

from extproc.settings.problems import SettingsError


def document(text: str, *, forgiving: bool = False) -> Any:
    """What the text says. `forgiving`: a key may be written twice in one mapping. Raises SettingsError."""
    try:
        return yaml.load(text, Loader=yaml.SafeLoader if forgiving else _UniqueKeyLoader)  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        raise SettingsError([_not_yaml(error)]) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice in one mapping, which YAML forbids and PyYAML forgives."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<`: what it brings, the mapping's own keys may say otherwise
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _not_yaml(error: yaml.YAMLError) -> str:
    """In one line, without the excerpt that YAML's own message has."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"not YAML: {' '.join(str(error).split())}"
    mark = error.problem_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    return f"not YAML: {where}: {error.problem}{f' ({error.context})' if error.context else ''}"
