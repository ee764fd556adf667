"""`GET /v1/models`: what the key may use, in OpenAI's shape."""

from typing import Any
from urllib.parse import unquote

import msgspec

from extproc.catalog import AUTO, Catalog, TeamView
from extproc.errors import ModelNotFound

MODELS_PATH = "/v1/models"


def answer(catalog: Catalog, team: TeamView, path: str) -> bytes:
    """The list, or one model's object for `/v1/models/{id}`. Raises ModelNotFound."""
    name = unquote(path.removeprefix(MODELS_PATH).strip("/"))  # a slash in it may be escaped, or not
    if not name:
        known = [AUTO, *catalog.targets]
        return msgspec.json.encode({"object": "list", "data": [_model(catalog, n) for n in known if n in team.models]})
    if name not in team.models:
        raise ModelNotFound.of(name)
    return msgspec.json.encode(_model(catalog, name))


def _model(catalog: Catalog, name: str) -> dict[str, Any]:
    target = catalog.targets.get(name)
    return {"id": name, "object": "model", "created": 0, "owned_by": target.provider if target else "gateway"}
