"""Building a part of a model (an encoder, a decoder) from its description in a config."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from slotlab.errors import ConfigError, nearest

Part = TypeVar("Part", bound=nn.Module)
_OTHER_CLASSES = ConfigDict(arbitrary_types_allowed=True)  # what pydantic does not know is checked with isinstance


def build(role: str, registry: Mapping[str, Callable[..., Part]], spec: Mapping[str, Any], **supplied: Any) -> Part:
    """Calls the registered class that `spec["kind"]` names with the rest of `spec` and with `supplied`.

    Args:
        role: what is built ("encoder"), for messages.
        registry: classes by kind.
        spec: JSON values, e.g. `{"kind": "cnn", "channels": 64}`.
        supplied: arguments that the whole model decides (widths, resolution); a spec may not set them.

    Raises:
        ConfigError: unknown kind or argument (the nearest is suggested), or a value out of range.
    """
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if kind not in registry:
        raise ConfigError(f"{role}.kind: unknown kind {kind!r}{nearest(str(kind), list(registry))}")
    check_arguments(role, registry[kind], arguments, reserved=set(supplied))
    return registry[kind](**arguments, **supplied)


def check_arguments(
    role: str, constructor: Callable[..., object], arguments: Mapping[str, Any], reserved: set[str] | None = None
) -> None:
    """Raises ConfigError for arguments that `constructor` does not have, or values of other types than it declares."""
    known = [name for name in inspect.signature(constructor).parameters if name not in (reserved or set())]
    types = _declared_types(constructor)
    for name, value in arguments.items():
        if name not in known:
            raise ConfigError(f"{role}: unknown key {name!r}{nearest(name, known)}")
        try:
            TypeAdapter(types.get(name, Any), config=_OTHER_CLASSES).validate_python(value, strict=True)
        except ValidationError as error:
            problems = dict.fromkeys(problem["msg"] for problem in error.errors())
            raise ConfigError(f"{role}.{name}: {', or '.join(problems)} (got {value!r})") from None


def _declared_types(constructor: Callable[..., object]) -> dict[str, Any]:
    try:
        return get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    except (NameError, TypeError):  # types that are imported for type checkers alone; a functools.partial
        return {}


def check_range(key: str, value: object, low: int, high: int | None = None) -> None:
    """Raises ConfigError unless `value` is an integer in low..high."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ConfigError(f"{key}: must be a whole number {span}, not {value!r}")
