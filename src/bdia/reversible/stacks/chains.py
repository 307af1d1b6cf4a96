"""Find the chains of a model: lists of alike layers that it calls one after the other on one residual stream."""

import fnmatch
import inspect
from collections.abc import Iterator, Sequence

from torch import nn

from bdia.reversible.stacks.adapters import ChainSpec, adapted

CONTAINERS = (nn.ModuleList, nn.Sequential)
PARALLEL = ("experts", "heads")  # lists whose members all get the same input


def find_chains(model: nn.Module, layers: str | Sequence[str] | None = None) -> list[ChainSpec]:
    """Return the chains of a model, named by their paths in it.

    Args:
        layers: names of lists of layers, or of one layer that is called several times; "encoder.stages.*.blocks"
            stands for all that match. None: look for them.
    Raises:
        ValueError: no such module; nothing found, or two chains that lie in each other.
    """
    if layers is None:
        found = list(_walk(model, ""))
        found = [spec for spec in found if all(map(_has_norm, spec.layers))] or found
    else:
        found = [spec for name in ([layers] if isinstance(layers, str) else layers) for spec in _named(model, name)]
    if not found:
        raise ValueError(_nothing_found(model))
    names = [spec.name for spec in found]
    for name in names:
        if names.count(name) > 1 or any(name.startswith(f"{other}.") for other in names):
            raise ValueError(f"layers={names}: {name} stands twice, or lies in another chain; name only one of them")
    return [spec._replace(batch_dim=spec.batch_dim or _batch_dim(spec.layers[0])) for spec in found]


def _walk(module: nn.Module, path: str) -> Iterator[ChainSpec]:
    specs = adapted(module)
    if specs is not None:
        yield from (spec._replace(name=_join(path, spec.name)) for spec in specs if len(spec.layers))
        return
    for name, child in module.named_children():
        here = _join(path, name)
        if name not in PARALLEL and _is_chain(child):
            yield ChainSpec(here, list(child))
        else:
            yield from _walk(child, here)


def _is_chain(module: nn.Module) -> bool:
    """Whether it is a list of alike layers, and not of stages, which hold lists of layers themselves."""
    layers = list(module.children())
    if not isinstance(module, CONTAINERS) or len(layers) < 2:
        return False
    deep = all(any(True for _ in layer.children()) and not isinstance(layer, CONTAINERS) for layer in layers)
    alike = len({type(layer) for layer in layers}) == 1 or (isinstance(module, nn.ModuleList) and _same_call(layers))
    return deep and alike and not any(map(_is_stage, layers))


def _same_call(layers: Sequence[nn.Module]) -> bool:
    """Whether layers of several classes take the same arguments."""
    try:
        return len({tuple(inspect.signature(type(layer).forward).parameters) for layer in layers}) == 1
    except (TypeError, ValueError):
        return False


def _is_stage(module: nn.Module) -> bool:
    """Whether most of a module's weights lie in lists of layers of its own, or an adapter knows it."""
    if adapted(module) is not None:
        return True
    inner = [child for name, child in module.named_children() if name not in PARALLEL and _is_chain(child)]
    return 2 * sum(map(_size, inner)) > _size(module) > 0 and any(map(_has_norm, inner))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _has_norm(layer: nn.Module) -> bool:
    return any("norm" in type(module).__name__.lower() for module in layer.modules())


def _named(model: nn.Module, name: str) -> Iterator[ChainSpec]:
    modules = dict(model.named_modules())
    matches = [found for found in modules if fnmatch.fnmatchcase(found, name)]
    if not matches:
        raise ValueError(f"layers={name!r}: no module of that name. {_candidates(model)}")
    for match in matches:
        module = modules[match]
        members = list(module.children()) if isinstance(module, CONTAINERS) else [module]
        if not members:
            raise ValueError(f"layers={name!r}: {match} holds no layer")
        yield ChainSpec(match, members)


def _batch_dim(layer: nn.Module) -> int:
    """The second dimension where a module says that its batch is not first."""
    return 1 if any(getattr(module, "batch_first", True) is False for module in layer.modules()) else 0


def _nothing_found(model: nn.Module) -> str:
    return (
        f"{type(model).__name__}: found no chain of alike layers to convert. {_candidates(model)} "
        "Or write an adapter (bdia.reversible.register_adapter)"
    )


def _candidates(model: nn.Module) -> str:
    lists = [
        f"{name} ({len(module)} x {', '.join(sorted({type(layer).__name__ for layer in module.children()}))})"
        for name, module in model.named_modules()
        if isinstance(module, CONTAINERS) and len(module) and name
    ]
    return f"Name one with layers=; lists of modules here: {'; '.join(lists) or 'none'}."


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)
