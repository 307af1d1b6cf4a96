"""What a class that a config names reads: the keyword arguments of its constructor, and the values they take.

Of the classes with a schema (`bdia.build.schema`) the schema tells, so that nothing is imported to refuse a mistyped
key. Any other class is imported, and pydantic checks values against the annotations of its constructor.
"""

import inspect
import json
import pkgutil
import typing
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from bdia import InvalidValueError
from bdia.build.schema import MISSING, SCHEMAS, shown, takes_any

# A number where a text is expected, and the like, is refused, but a list is a tuple too: as JSON is read.
_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text", "NoneType": "null"}
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Signature(NamedTuple):
    """What a class or function reads.

    Args:
        annotations: its keyword arguments, with the annotation or Any.
        takes_any: it takes `**kwargs`, and no base class shows who reads them.
    """

    annotations: dict[str, Any]
    takes_any: bool = False


def signature(target: str, key: str = "_target_") -> Signature:
    """Return what "package.module.Name" reads.

    Args:
        key: the config key that names it, for the error.
    Raises:
        InvalidValueError: there is no such class or function, or importing it fails.
    """
    if target in SCHEMAS:
        return Signature(typing.get_type_hints(SCHEMAS[target]), takes_any(target))
    return _imported(target, key)


@cache
def _imported(target: str, key: str) -> Signature:
    try:
        found = pkgutil.resolve_name(target)
    except Exception as error:  # a module of the user's may raise anything
        said = " ".join(str(error).split())
        raise InvalidValueError(f"{key}={target}: there is no such class or function: {said}; set {key}") from error
    if not callable(found):
        raise InvalidValueError(f"{key}={target}: wanted a class or function; set {key}")
    return of_callable(found)


def of_callable(found: Any) -> Signature:
    """Return what a class or function reads."""
    return _of_class(found) if isinstance(found, type) else _of_function(found)


def _of_class(found: type) -> Signature:
    """`**kwargs` go to the next constructor of the base classes; where there is none, nobody knows who reads them."""
    annotations: dict[str, Any] = {}
    constructors = [vars(base)["__init__"] for base in found.__mro__[:-1] if "__init__" in vars(base)]
    for constructor in constructors:
        own = _of_function(constructor, skip=1)
        annotations = own.annotations | annotations
        if not own.takes_any:
            return Signature(annotations)
    return Signature(annotations, takes_any=True) if constructors else _of_function(found)


def _of_function(found: Any, skip: int = 0) -> Signature:
    try:
        arguments = list(inspect.signature(found).parameters.values())[skip:]
    except (TypeError, ValueError):  # written in C
        return Signature({}, takes_any=True)
    try:
        hints = typing.get_type_hints(found)
    except Exception:  # a name that only type checkers import
        hints = {}
    named = {one.name: hints.get(one.name, Any) for one in arguments if one.kind not in _BY_POSITION}
    return Signature(named, any(one.kind is inspect.Parameter.VAR_KEYWORD for one in arguments))


def check_annotated(read: Signature, node: Mapping[str, Any], place: str) -> None:
    """Refuse a value that the annotation of its argument does not take.

    Args:
        node: settings of the class, interpolations resolved. place: their key, for the error.
    Raises:
        InvalidValueError: names key, value and what was wanted.
    """
    for name, value in node.items():
        adapter = _adapter(read.annotations[name]) if name in read.annotations else None
        if adapter is None or _is_for_hydra(value):
            continue
        try:
            adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError:
            wanted = " or ".join(_words(part) for part in _members(read.annotations[name]))
            raise InvalidValueError(f"{place}.{name}={shown(value)}: wanted {wanted}; set {place}.{name}") from None


def _is_for_hydra(value: Any) -> bool:
    """Tell whether something else than this value reaches the constructor, or may."""
    if isinstance(value, Mapping):
        return True
    if isinstance(value, list):
        return any(map(_is_for_hydra, value))
    return isinstance(value, str) and (value == MISSING or "${" in value)


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union that a value of a config can be; objects such as a tensor never are."""
    is_union = typing.get_origin(annotation) in (Union, UnionType)
    return tuple(part for part in (typing.get_args(annotation) if is_union else (annotation,)) if _is_plain(part))


def _is_plain(part: Any) -> bool:
    try:
        TypeAdapter(part)
    except PydanticUserError:
        return False
    return True


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """Return what checks values of an annotation; None where it tells nothing of plain values."""
    members = _members(annotation)
    if not {*members} - {NoneType, Any}:
        return None
    return TypeAdapter(Union[members])  # noqa: UP007 -- of a tuple


def _words(part: Any) -> str:
    name = getattr(part, "__name__", str(part))
    return _WORDS.get(name, str(part) if typing.get_args(part) else name)
