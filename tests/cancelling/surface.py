"""Find the public coroutines of the package."""

import inspect
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules, walk_packages
from typing import Any, Final

import pika_balancer

ASYNC_PROTOCOLS: Final = {"__aenter__", "__aexit__", "__anext__", "__await__"}
NOT_FOR_PROGRAMS: Final = {"cli", "__main__", "_util"}
"""Rooms that programs do not import: commands, whose interrupts have tests of their own, and helpers."""
MODULES: Final = ("clock", "testing", "dispatch.webhook")
"""Public modules that are no packages."""


def fronts() -> dict[str, types.ModuleType]:
    """Return the modules that users import from, by name.

    Every package that states its public names, all modules of one that does not, and `MODULES`.
    """
    names = {"pika_balancer", *(f"pika_balancer.{module}" for module in MODULES)}
    for found in walk_packages(pika_balancer.__path__, "pika_balancer."):
        if found.ispkg and found.name.split(".")[1] not in NOT_FOR_PROGRAMS:
            package = import_module(found.name)
            if hasattr(package, "__all__"):
                names.add(found.name)
            else:
                names |= {module.name for module in iter_modules(package.__path__, f"{found.name}.")}
    return {name: import_module(name) for name in sorted(names)}


def public_things() -> Iterator[Any]:
    """Yield the public classes and functions of the fronts."""
    for name, module in fronts().items():
        for own in getattr(module, "__all__", vars(module)):
            thing = getattr(module, own)
            here = hasattr(module, "__all__") or getattr(thing, "__module__", None) == name
            if not own.startswith("_") and here and (inspect.isclass(thing) or inspect.isfunction(thing)):
                yield thing


def public_coroutines() -> set[str]:
    """Return the qualified names of all public coroutines: methods, functions, async contexts and iterators.

    What a public method returns is public, too, wherever it is defined.
    """
    found: dict[str, str] = {}
    seen: set[type] = set()
    left = list(public_things())
    while left:
        thing = left.pop()
        if not inspect.isclass(thing):
            if _is_async(thing):
                _note(found, thing)
            continue
        if thing in seen or getattr(thing, "_is_protocol", False):
            continue
        seen.add(thing)
        for base in thing.__mro__:
            for name, member in vars(base).items() if _is_ours(base) else ():
                if name.startswith("_") and name not in ASYNC_PROTOCOLS | {"__aiter__"}:
                    continue
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if not inspect.isfunction(function):
                    continue
                if _is_async(function):
                    _note(found, function)
                returned = _parts(_returned(function))
                left += [kind for kind in returned if inspect.isclass(kind) and _is_ours(kind)]
    return set(found)


def _note(found: dict[str, str], function: types.FunctionType) -> None:
    name, room = function.__qualname__, function.__module__
    assert found.setdefault(name, room) == room, f"{name} is in {found[name]} and in {room}"


def _is_async(function: types.FunctionType) -> bool:
    inner = inspect.unwrap(function)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        return True
    name = function.__name__
    if name.startswith("__"):
        return name in ASYNC_PROTOCOLS
    kinds = [kind for kind in _parts(_returned(function)) if inspect.isclass(kind) and not _is_ours(kind)]
    return any(hasattr(kind, "__await__") or hasattr(kind, "__anext__") for kind in kinds)


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == pika_balancer.__name__


def _returned(function: types.FunctionType) -> Any:
    inner = inspect.unwrap(function)
    alone = types.SimpleNamespace(__annotations__={"return": inner.__annotations__.get("return")})
    try:
        return typing.get_type_hints(alone, inner.__globals__)["return"]
    except (NameError, TypeError):  # a type of an extra, or `array[float]`: only type checkers read these
        return None


def _parts(hint: Any) -> Iterator[Any]:
    yield typing.get_origin(hint) or hint
    for part in typing.get_args(hint):
        yield from _parts(part)
