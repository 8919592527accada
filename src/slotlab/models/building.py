"""Weights to begin with, near to those of the published TensorFlow implementation, not PyTorch's defaults.

PyTorch draws convolutions with a third of the variance that keeps a signal's size, so that after five layers a slot
hardly changes the picture; training then spends its first thousands of steps growing the weights.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode; its mode is restored, also after an error. Gradients are left as they are."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def initialise(module: nn.Module) -> None:
    """He-normal convolutions, Glorot-uniform dense layers, orthogonal recurrence, zero biases.

    For use with `nn.Module.apply`; He et al. 2015 (arXiv 1502.01852), Glorot and Bengio 2010; the published code has
    the Keras defaults, which draw convolutions by Glorot too. All convolutions are drawn as if they fed a ReLU, 1x1
    ones and the last included; of a transposed one PyTorch counts the outputs as inputs.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.ConvTranspose2d):
            module.weight.data.mul_(module.stride[0])  # only one in stride^2 of the kernel meets each pixel
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.GRUCell):
        for gate in module.weight_ih.chunk(3):
            nn.init.xavier_uniform_(gate)
        for gate in module.weight_hh.chunk(3):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(module.bias_ih)
        nn.init.zeros_(module.bias_hh)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
