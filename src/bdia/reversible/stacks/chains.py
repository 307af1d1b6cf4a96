"""Find the chains of a model: lists of alike layers that it calls one after the other on one residual stream."""

import fnmatch
import inspect
from collections.abc import Iterator, Sequence
from typing import TypeGuard

from torch import nn

from bdia import InvalidValueError
from bdia.reversible.stacks.adapters import ChainSpec, adapted

CONTAINERS = (nn.ModuleList, nn.Sequential)
PARALLEL = ("experts", "heads")  # lists whose members all get the same input


def find_chains(model: nn.Module, layers: str | Sequence[str] | None = None) -> list[ChainSpec]:
    """Return the chains of a model, named by their paths in it.

    Args:
        layers: names of lists of layers; of one layer that is called several times; of several single layers in the
            order of their calls. "encoder.stages.*.blocks" stands for all that match. None: look for them.
    Raises:
        ValueError: no such module; nothing found, or two chains that lie in each other.
    """
    if layers is None:
        found = list(_walk(model, ""))
        found = [spec for spec in found if all(map(_has_norm, spec.layers))] or found
    else:
        names = [layers] if isinstance(layers, str) else layers
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise InvalidValueError(f"layers={type(layers).__name__}: wanted names, such as layers='model.layers'")
        found = [spec for name in names for spec in _named(model, name)]
        if len(found) > 1 and all(
            len(spec.layers) == 1 for spec in found
        ):  # single layers, in the order of their calls
            found = [ChainSpec(", ".join(spec.name for spec in found), [spec.layers[0] for spec in found])]
    if not found:
        raise InvalidValueError(_nothing_found(model))
    names = [name for spec in found for name in spec.name.split(", ")]
    for name in names:
        if names.count(name) > 1 or any(name.startswith(f"{other}.") for other in names):
            raise InvalidValueError(
                f"layers={names}: {name} stands twice, or lies in another chain; name only one of them"
            )
    return [spec._replace(batch_dim=spec.batch_dim or _batch_dim(spec.layers[0])) for spec in found]


def _walk(module: nn.Module, path: str) -> Iterator[ChainSpec]:
    specs = adapted(module)
    if specs is not None:
        yield from (spec._replace(name=_join(path, spec.name)) for spec in specs if len(spec.layers))
        return
    for name, child in module.named_children():
        here = _join(path, name)
        if _may_hold_layers(name) and _is_chain(child):
            yield ChainSpec(here, list(child))
        else:
            yield from _walk(child, here)


def _may_hold_layers(name: str) -> bool:
    return name not in PARALLEL and "embed" not in name  # hierarchical models list their stages' embeddings


def _is_chain(module: nn.Module) -> TypeGuard[nn.ModuleList | nn.Sequential]:
    """Whether it is a list of layers: of one class, or in a ModuleList three or more that take the same stream."""
    return _is_list(module) and (_of_one_class(module) or _of_one_stream(module)) and not _holds_stages(module)


def _is_list(module: nn.Module) -> bool:
    """Whether it is a container of two modules or more that have parts, and are no containers themselves."""
    members = list(module.children())
    if not isinstance(module, CONTAINERS) or len(members) < 2:
        return False
    return not any(isinstance(member, CONTAINERS) or not any(True for _ in member.children()) for member in members)


def _of_one_class(module: nn.Module) -> bool:
    return len({type(member) for member in module.children()}) == 1


def _of_one_stream(module: nn.Module) -> bool:
    """Whether the members name their first argument alike (Jamba: attention and Mamba layers in turn)."""
    if not isinstance(module, nn.ModuleList) or len(module) < 3 or not all(map(_has_norm, module)):
        return False
    if not _repeats(module):  # stages of a hierarchical model (MobileViT) are of different sizes
        return False
    return len({next(iter(inspect.signature(layer.forward).parameters), None) for layer in module}) == 1


def _holds_stages(module: nn.Module) -> bool:
    """Whether its members are stages: an adapter knows them, or most of their weights lie in a list of layers."""
    return any(adapted(member) is not None or _is_stage(member) for member in module.children())


def _is_stage(module: nn.Module) -> bool:
    inner = [
        child
        for name, child in module.named_children()
        if _may_hold_layers(name) and _is_list(child) and _of_one_class(child) and not _holds_stages(child)
        if _repeats(child)
    ]
    inside = {part for child in inner for part in child.modules()}
    attends = any("atten" in type(part).__name__.lower() for part in module.modules() if part not in inside)
    return not attends and 2 * sum(map(_size, inner)) > _size(module) > 0 and any(map(_has_norm, inner))


def _repeats(module: nn.Module) -> bool:
    """Whether two members have parameters of the same shapes; the convolutions inside a residual block have not."""
    shapes = [tuple(parameter.shape for parameter in member.parameters()) for member in module.children()]
    return len(set(shapes)) < len(shapes)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _has_norm(layer: nn.Module) -> bool:
    parts = (part for part in layer.modules() if part is not layer)
    return any("norm" in type(part).__name__.lower() for part in parts)


def _named(model: nn.Module, name: str) -> Iterator[ChainSpec]:
    modules = dict(model.named_modules())
    matches = [found for found in modules if _matches(found, name)]
    if not matches:
        raise InvalidValueError(f"layers={name!r}: no module of that name. {_candidates(model)}")
    for match in matches:
        module = modules[match]
        members = list(module.children()) if isinstance(module, CONTAINERS) else [module]
        if not members or any(isinstance(member, nn.ModuleList | nn.ModuleDict) for member in members):
            raise InvalidValueError(
                f"layers={name!r}: {match} holds no layer that a model could call, but lists. {_candidates(model)}"
            )
        yield ChainSpec(match, members)


def _matches(name: str, pattern: str) -> bool:
    """Compare part by part: a star stands for one part of a path."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


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
