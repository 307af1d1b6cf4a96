"""What a class that a config names reads: the keyword arguments of its constructor, and its `kind`.

Both are found in the source. Importing Lightning or timm to look at a signature takes seconds, and a mistyped key is
to be refused at once. A class whose source does not tell is not judged.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SIMPLE = ("bool", "float", "int", "str")
BUILT_IN = ("object", "Generic", "Protocol")  # bases without arguments


class Parameter(NamedTuple):
    """One keyword argument.

    Args:
        types: names of simple types and "None" that it may have; empty where its annotation says more, or nothing.
    """

    types: frozenset[str]


class Declaration(NamedTuple):
    """A class or function, as its source declares it.

    Args:
        parameters: keyword arguments by name.
        takes_any: it takes `**kwargs`, and the source does not show who reads them.
        kind: the class's attribute of this name.
    """

    parameters: dict[str, Parameter]
    takes_any: bool = False
    kind: str | None = None


UNKNOWN = Declaration({}, takes_any=True)


@cache
def declaration(target: str) -> Declaration:
    """Return the declaration of "package.module.Name"; `UNKNOWN` where it is not found."""
    module, _, name = target.rpartition(".")
    return _declared(module, name) if module else UNKNOWN


@cache
def _declared(module: str, name: str) -> Declaration:
    tree = _parsed(module)
    if tree is None:
        return UNKNOWN
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _of_function(node)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _of_class(node, module)
    where = _imported_from(tree, module, name)
    return UNKNOWN if where in (None, (module, name)) else _declared(*where)


@cache
def _parsed(module: str) -> ast.Module | None:
    path = _source(module)
    return None if path is None else ast.parse(path.read_text(encoding="utf-8"))


def _source(module: str) -> Path | None:
    """Return the file of a module; of the packages around it none is imported."""
    top, *parts = module.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # a module without a spec, such as __main__
        return None
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin)
    if parts:
        base = base.parent.joinpath(*parts)
        base = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return base if base.suffix == ".py" and base.is_file() else None


def _imported_from(tree: ast.Module, module: str, name: str) -> tuple[str, str] | None:
    """Return module and name that a name of a module comes from: of an import, or of the table of lazy names."""
    is_package = _source(module).name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _absolute("." * node.level + (node.module or ""), module, is_package), alias.name
        elif isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["_MODULES"]:
            for key, value in _pairs(node.value):
                if key == name:
                    return _absolute(value, module, is_package), name
    return None


def _imported_module(tree: ast.Module, module: str, name: str) -> str | None:
    """Return the module that a name of a module stands for."""
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.asname == name:
                return alias.name
            if alias.asname is None and alias.name.partition(".")[0] == name:
                return name
    where = _imported_from(tree, module, name)
    return None if where is None else ".".join(where)


def _pairs(node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                yield key.value, value.value


def _absolute(name: str, module: str, is_package: bool) -> str:
    """Return the absolute name of a module that `module` imports as `name`, which may open with dots."""
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parts = module.split(".")
    kept = parts[: len(parts) - level + is_package]
    return ".".join([*kept, name.lstrip(".")]).rstrip(".")


def _of_class(node: ast.ClassDef, module: str) -> Declaration:
    constructor = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    fields = {n.target.id: Parameter(_types(n.annotation)) for n in node.body
              if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}  # fmt: skip
    is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    own = _of_function(constructor) if constructor else Declaration(fields if is_dataclass else {})
    bases = [_of_base(base, module) for base in node.bases]
    inherits = bases and (own.takes_any or constructor is None)
    parameters = own.parameters
    for base in bases if inherits else ():
        parameters = base.parameters | parameters
    takes_any = any(base.takes_any for base in bases) if inherits else own.takes_any
    kinds = [_kind(node), *(base.kind for base in bases)]
    return Declaration(parameters, takes_any, next(filter(None, kinds), None))


def _of_base(base: ast.expr, module: str) -> Declaration:
    """Return the declaration of a base class: `Base`, `package.module.Base`, or either with `[T]` behind it."""
    if isinstance(base, ast.Subscript):
        base = base.value
    first, *rest = ast.unparse(base).split(".")
    if first in BUILT_IN:
        return Declaration({})
    if not rest:
        return _declared(module, first)
    place = _imported_module(_parsed(module), module, first)
    return UNKNOWN if place is None else declaration(".".join([place, *rest]))


def _kind(node: ast.ClassDef) -> str | None:
    for line in node.body:
        if isinstance(line, ast.Assign) and [getattr(t, "id", None) for t in line.targets] == ["kind"]:
            return getattr(line.value, "value", None)
    return None


def _of_function(node: ast.FunctionDef) -> Declaration:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    named = {argument.arg: Parameter(_types(argument.annotation)) for argument in arguments}
    named.pop("self", None)
    return Declaration(named, takes_any=node.args.kwarg is not None)


def _types(annotation: ast.expr | None) -> frozenset[str]:
    """Return the simple types of an annotation; none if it has another one too."""
    found = set()
    for part in _parts(annotation):
        name = "None" if isinstance(part, ast.Constant) and part.value is None else getattr(part, "id", None)
        if name not in (*SIMPLE, "None"):
            return frozenset()
        found.add(name)
    return frozenset(found)


def _parts(annotation: ast.expr | None) -> Iterator[ast.expr | None]:
    """Yield the members of a union."""
    if isinstance(annotation, ast.BinOp):
        yield from [*_parts(annotation.left), *_parts(annotation.right)]
    elif isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", None) in ("Optional", "Union"):
        inside = annotation.slice
        for member in inside.elts if isinstance(inside, ast.Tuple) else [inside]:
            yield from _parts(member)
        if annotation.value.id == "Optional":
            yield ast.Constant(None)
    else:
        yield annotation
