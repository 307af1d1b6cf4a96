"""Kinds of values, for the schemas of the config groups: what pydantic checks, and what an error says was wanted."""

from typing import Annotated, Any, Literal, Required, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field

Kind = Any  # an annotation: a type with what pydantic checks of it
MANY = 10**7  # more batches, blocks, tokens or epochs than anyone means


def whole(low: int, high: int = MANY) -> Kind:
    """A whole number from low to high."""
    wanted = f"a whole number of at least {low}" + (f" and at most {high:,}" if high != MANY else "")
    return Annotated[int, Field(strict=True, ge=low, le=high, description=wanted)]


def number(low: float, high: float = 1e6, *, above: bool = False, below: bool = False) -> Kind:
    """A finite number from low to high; `above` and `below` leave the limits out."""
    lower, upper = ("gt", "above") if above else ("ge", "of at least"), ("lt", "below") if below else ("le", "at most")
    limits = {lower[0]: low, upper[0]: high, "allow_inf_nan": False}
    wanted = f"a number {lower[1]} {low:g}" + (f" and {upper[1]} {high:g}" if high != 1e6 else "")
    return Annotated[float, Field(strict=True, description=wanted, **limits)]


def one_of(*values: Any) -> Kind:
    """One of these values."""
    told = _shown(values[0]) if len(values) == 1 else f"one of {', '.join(map(_shown, values))}"
    kinds = {type(value) for value in values}

    def same_type(value: Any) -> Any:  # to Python true is 1
        if type(value) not in kinds:
            raise ValueError
        return value

    return Annotated[Literal[values], BeforeValidator(same_type), Field(description=told)]


def either(*kinds: Kind) -> Kind:
    """A value of any of these kinds."""
    joined: Any = kinds[0]
    for kind in kinds[1:]:
        joined = joined | kind
    return Annotated[joined, Field(description=" or ".join(map(wanted_of, kinds)))]


def maybe(kind: Kind) -> Kind:
    """A value of this kind, or null."""
    return Annotated[kind | None, Field(description=f"{wanted_of(kind)} or null")]


def list_of(kind: Kind, at_least: int = 0, at_most: int | None = None) -> Kind:
    """A list of values of one kind."""
    count = f"{at_least} values" if at_least == at_most else "values"
    text = f"a list of {count}, each {wanted_of(kind)}"
    return Annotated[list[kind], Field(strict=True, min_length=at_least, max_length=at_most, description=text)]


def texts_by_name(kind: Kind) -> Kind:
    """A mapping from names to values of one kind."""
    text = f"names with values, each {wanted_of(kind)}"
    return Annotated[dict[str, kind], Field(strict=True, min_length=1, description=text)]


def numbers_by_name(kind: Kind) -> Kind:
    """A mapping from names to numbers of one kind; it may be empty."""
    return Annotated[dict[str, kind], Field(strict=True, description=f"names with numbers, each {wanted_of(kind)}")]


def wanted_of(kind: Kind) -> str:
    """Return what an error says was wanted."""
    kind = get_args(kind)[0] if get_origin(kind) is Required else kind
    told = [field.description for field in getattr(kind, "__metadata__", ()) if getattr(field, "description", None)]
    return str(told[-1]) if told else "another value"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _names_a_class(node: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(node.get("_target_"), str):
        raise ValueError
    return node


TEXT = Annotated[str, Field(strict=True, description="a text")]
FILLED = Annotated[str, Field(strict=True, min_length=1, description="a text that is not empty")]
FLAG = Annotated[bool, Field(strict=True, description="true or false")]
NODE = Annotated[
    dict[str, Any],
    Field(strict=True, description="a node with a _target_, such as a choice of its group"),
    AfterValidator(_names_a_class),
]
SHARE = number(0, 1, below=True)
SIZE = whole(1)
SEED = whole(0, 2**63 - 1)
FRACTION = either(FILLED, number(-1e6))  # "1/2" or 0.5; which ones are right is the law's to say
