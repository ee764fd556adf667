"""Holds answers to the document: every answer that a test of the control API sees is what /openapi.json says.

In: what was asked, and the answer. Out: nothing, or a failed test that names the field.
"""

import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from control.openapi.document import document
from control.openapi.operation import Operation
from control.openapi.operations import OPERATIONS


def operation_of(method: str, path: str) -> Operation | None:
    """The operation that a path (with its query) means; fixed paths go before patterns."""
    path = path.partition("?")[0]
    found = [
        operation
        for operation in OPERATIONS
        if operation.method == method and re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(operation.path)), path)
    ]
    return min(found, key=lambda operation: operation.path.count("{"), default=None)


def conforms(method: str, path: str, status: int, body: Any) -> None:
    """Fails the test unless the document knows such an answer. Unknown paths and methods are 404 and 405."""
    operation = operation_of(method, path)
    if operation is None:
        assert status in (404, 405), f"{method} {path} is not in the document"
        return
    validator = _validator(operation.path, method, status)
    if validator is not None:
        problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]
        assert not problems, f"{method} {path} -> {status}: {problems[:5]}"


@cache
def _validator(path: str, method: str, status: int) -> Draft202012Validator | None:
    """None: an answer that is no JSON."""
    answers = document()["paths"][path][method.lower()]["responses"]
    said = answers.get(str(status)) or answers.get(f"{status // 100}XX")
    assert said, f"{method} {path}: {status} is not in the document"
    content = said.get("content", {}).get("application/json")
    # What the schemas refer to lies in the document.
    return content and Draft202012Validator(content["schema"] | {"components": document()["components"]})
