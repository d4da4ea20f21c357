"""docs/reference/configuration.md: every key of config.yaml, from the sections' models and docstrings."""

import inspect
from typing import Any, get_args

import yaml
from page_text import page, prose, table
from pydantic import BaseModel

from es_ray.config import Config
from es_ray.config.loading import RESUMABLE

INTRODUCTION = """\
Every key can be set in a file (`--config`) or with `--set section.key=value`. A flag overrides `--set`, which
overrides the file, which overrides the preset; `es-ray run --dry-run` prints what it comes to. The defaults
here are the general ones, of the preset `general`, which any model but the bundled one takes;
[presets](presets.md) have their own. Unknown keys, and keys without effect, are errors. Values are YAML:
`null`, `true`, `[a, b]`, `{kind: linear, to: 0.1, over: 50}`."""


def configuration_page() -> str:
    """The page."""
    resumable = ", ".join(f"`{key}*`" if key.endswith(".") else f"`{key}`" for key in RESUMABLE)
    resumed = f"A resumed run may change {resumable}, and no other key."
    schema = Config.model_json_schema()
    return page("Keys of the configuration", INTRODUCTION, resumed, *_sections(Config, Config(), "", schema))


def _sections(model: type[BaseModel], values: BaseModel, prefix: str, schema: dict[str, Any]) -> list[str]:
    """The sections inside one, each with its keys; those inside them after it."""
    found = []
    for name, field in model.model_fields.items():
        inner = _model(field.annotation)
        if inner is None:
            continue
        value = getattr(values, name)
        rows = [
            [f"`{prefix}{name}.{key}`", _allowed(_property(inner, key, schema), schema), _default(value, key)]
            for key, item in inner.model_fields.items()
            if _model(item.annotation) is None
        ]
        found += [
            f"## {prefix}{name}",
            prose(inspect.getdoc(inner)),
            table(["key", "values", "default"], rows),
        ]
        found += _sections(inner, value, f"{prefix}{name}.", schema)
    return found


def _model(annotation: Any) -> type[BaseModel] | None:
    found = [kind for kind in (annotation, *get_args(annotation)) if inspect.isclass(kind)]
    return next((kind for kind in found if issubclass(kind, BaseModel)), None)


def _property(model: type[BaseModel], key: str, schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][model.__name__]["properties"][key]
    return found


def _default(values: BaseModel, key: str) -> str:
    value = getattr(values, key)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return f"`{text}`"


def _allowed(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(choice, root) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return "list of " + _allowed(schema["items"], root)
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    names |= {"object": "mapping", "null": "`null`"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in signs.items() if key in schema]
    return " ".join([names[schema["type"]], ", ".join(bounds)]).strip()


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 2**53 else f"{value:g}"
