"""The values that each class of a config group takes, as pydantic schemas: one module per group, one class per class.

`check_values` is called on every node of a composed config before data are read. Names of keys are checked before
(`bdia.build.keys`); what settings of several nodes say together is checked in `together`.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bdia import InvalidValueError
from bdia.build.schema import data, model, run, training
from bdia.build.schema.fields import wanted_of
from bdia.build.schema.training import WHY

SCHEMAS: dict[str, Any] = {**run.SCHEMAS, **data.SCHEMAS, **model.SCHEMAS, **training.SCHEMAS}
MISSING = "???"  # Hydra's word for a value that something else sets


def check_values(target: str, node: Mapping[str, Any], place: str) -> bool:
    """Refuse a value that a class does not take; returns whether there is a schema of it.

    Args:
        target: public name of the class. node: its settings, interpolations resolved. place: its key, for the error.
    Raises:
        InvalidValueError: names key, value and what was wanted.
    """
    if target not in SCHEMAS:
        return False
    open_keys = [key for key, value in node.items() if value == MISSING or (isinstance(value, str) and "${" in value)]
    given = {key: value for key, value in node.items() if key not in open_keys}
    try:
        _adapter(target).validate_python(given)
    except ValidationError as error:
        for fault in error.errors():
            key = str(fault["loc"][0])
            if key in open_keys:
                continue
            path = f"{place}.{key}".lstrip(".")
            wanted = wanted_of(get_type_hints(SCHEMAS[target], include_extras=True).get(key))
            if fault["type"] == "missing":
                raise InvalidValueError(f"{path} is missing: {target} needs it; set {path}") from None
            why = _why(target, key, node[key])
            raise InvalidValueError(f"{path}={shown(node[key])}: wanted {wanted}{why}; set {path}") from None
    return True


def _why(target: str, key: str, value: Any) -> str:
    """Return why a value that someone may expect is not there; "" for others."""
    reasons = WHY.get((target, key), {})
    return f" ({reasons[value]})" if isinstance(value, str) and value in reasons else ""


@cache
def _adapter(target: str) -> TypeAdapter[Any]:
    schema = SCHEMAS[target]
    if not takes_any(target):
        schema.__pydantic_config__ = ConfigDict(extra="ignore")  # names of keys are checked before
    return TypeAdapter(schema)


def takes_any(target: str) -> bool:
    """Tell whether a class of `SCHEMAS` hands keys that its schema does not name on to a library."""
    return getattr(SCHEMAS[target], "__pydantic_config__", {}).get("extra") == "allow"


def shown(value: Any) -> str:
    """Return a value as an error shows it."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    text = text or ("{...}" if isinstance(value, Mapping) else str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
