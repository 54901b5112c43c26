"""The JSON schemas of the OCI image specification, as its authors wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from tests.programs import missing

_PLACE = Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")


def _load(name: str) -> Any:
    path = _PLACE / name
    if not path.exists():
        missing("golang-github-opencontainers-image-spec-dev is not installed")
    return json.loads(path.read_bytes())


def _retrieve(uri: str) -> Resource[Any]:
    # Names are relative to whatever `id` stands nearest, but mean the files beside each other.
    return Resource.from_contents(_load(uri.rpartition("/")[2]), default_specification=DRAFT4)


def check(kind: str, data: bytes) -> Any:
    """Check a document: config, image-index, image-layout or image-manifest; give its value."""
    validator = Draft4Validator(
        _load(f"{kind}-schema.json"),
        registry=Registry(retrieve=_retrieve),
        format_checker=Draft4Validator.FORMAT_CHECKER,
    )
    value = json.loads(data)
    validator.validate(value)
    return value
