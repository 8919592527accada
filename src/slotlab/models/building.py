"""Parts from their settings: kinds, checked arguments and inputs, initial weights, hashes."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from slotlab.errors import ConfigError, nearest

if TYPE_CHECKING:
    from slotlab.models import Model

Part = TypeVar("Part", bound=nn.Module)
Class = TypeVar("Class")
_OTHER_CLASSES = ConfigDict(arbitrary_types_allowed=True)  # those are checked with isinstance


def build(role: str, registry: Mapping[str, Callable[..., Part]], spec: Mapping[str, Any], **supplied: Any) -> Part:
    """Calls the registered class that `spec["kind"]` names with the rest of `spec` and `supplied`.

    Args:
        role: what is built ("encoder"), for messages.
        registry: classes by kind.
        spec: JSON values, e.g. `{"kind": "cnn", "channels": 64}`.
        supplied: arguments that follow from the other parts, which a spec may not set.

    Raises:
        ConfigError: unknown kind or argument (the nearest is suggested), or a value out of range.

    Example:
        >>> from slotlab.models import ENCODERS
        >>> build("encoder", ENCODERS, {"kind": "cnn", "channels": 8, "strides": [2, 1]}).stride
        2
        >>> build("encoder", ENCODERS, {"kind": "cnn", "chanels": 8})
        Traceback (most recent call last):
        slotlab.errors.ConfigError: encoder: unknown key 'chanels'; did you mean 'channels'?
    """
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in registry:
        raise ConfigError(f"{role}.kind: unknown kind {kind!r}{nearest(str(kind), list(registry))}")
    check_arguments(role, registry[kind], arguments, reserved=set(supplied))
    return registry[kind](**arguments, **supplied)


def check_arguments(
    role: str, constructor: Callable[..., object], arguments: Mapping[str, Any], reserved: set[str] | None = None
) -> None:
    """Raises ConfigError for unknown arguments and values that do not fit `constructor`'s types."""
    known = [name for name in inspect.signature(constructor).parameters if name not in (reserved or set())]
    target = constructor.__init__ if inspect.isclass(constructor) else constructor
    try:
        types = get_type_hints(target, include_extras=True)
    except (NameError, TypeError):  # types imported for type checkers alone; a functools.partial
        types = {}
    for name, value in arguments.items():
        if name not in known:
            raise ConfigError(f"{role}: unknown key {name!r}{nearest(name, known)}")
        try:
            TypeAdapter(types.get(name, Any), config=_OTHER_CLASSES).validate_python(value, strict=True)
        except ValidationError as error:
            problems = dict.fromkeys(problem["msg"] for problem in error.errors())
            raise ConfigError(f"{role}.{name}: {', or '.join(problems)} (got {value!r})") from None


def configured(section: str) -> Callable[[type[Class]], type[Class]]:
    """Class decorator: checks the names and, as pydantic does, the types of constructor arguments.

    The ConfigError names `section.argument`.

    Example:
        >>> @configured("decoder")
        ... class Decoder:
        ...     def __init__(self, channels: Annotated[int, Field(ge=1)] = 64) -> None:
        ...         self.channels = channels
        >>> Decoder(channels=0)
        Traceback (most recent call last):
        slotlab.errors.ConfigError: decoder.channels: Input should be greater than or equal to 1 (got 0)
    """

    def decorate(made: type[Class]) -> type[Class]:
        init, names = made.__init__, list(inspect.signature(made).parameters)

        @wraps(init)
        def checked(self: Class, *args: Any, **kwargs: Any) -> None:
            check_arguments(section, made, {**dict(zip(names, args, strict=False)), **kwargs})
            init(self, *args, **kwargs)

        made.__init__ = checked
        return made

    return decorate


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


Positive = Annotated[int, Field(ge=1)]
KernelSize = Annotated[int, Field(ge=1), AfterValidator(_odd)]  # odd, so that "same" padding exists
Resolution = Annotated[int, Field(ge=8, le=4096)]
Probability = Annotated[float, Field(ge=0, lt=1)]
SLACK = 1e-3  # beyond [0, 1], which interpolation may reach


def check_images(images: Tensor, side: int, dtype: torch.dtype, values: bool, multiples: bool = False) -> None:
    """ValueError unless `images` are [B, 3, side, side] of `dtype`; with `values`, in [0, 1].

    With `multiples` the sides need only be multiples of `side`. Under autocast any float of at most
    32 bits will do. Values are not looked at in compiled or exported models.
    """
    form = f"[B, 3, H, W], sides multiples of {side}," if multiples else f"[B, 3, {side}, {side}]"
    got, remedy = type(images).__name__, ""
    if not isinstance(images, Tensor):
        remedy = "make a tensor of them, e.g. torch.from_numpy(array)"
    elif images.ndim != 4 or images.shape[1] != 3 or not _fit(images.shape[2:], side, multiples):
        got, remedy = str(list(images.shape)), "resize them, or load a model of that resolution"
        if images.ndim == 3 and images.shape[0] == 3 and _fit(images.shape[1:], side, multiples):
            remedy = "add a dimension for the batch: images[None]"
        elif images.ndim == 4 and images.shape[3] == 3:
            remedy = "put the channels second: images.permute(0, 3, 1, 2)"
    elif not images.is_floating_point():
        got, remedy = str(images.dtype), "scale them to [0, 1], e.g. images.float() / 255"
    elif images.dtype != dtype and not (images.itemsize <= 4 and torch.is_autocast_enabled(images.device.type)):
        got, remedy = str(images.dtype), f"convert them: images.to({dtype})"
    elif values and images.numel() and not (images.is_meta or torch.compiler.is_compiling()):
        low, high = (float(value) for value in images.detach().aminmax())
        if not (low >= -SLACK and high <= 1 + SLACK):  # NaN is neither
            got, remedy = f"values from {low:.3g} to {high:.3g}", "scale or clamp them, and remove NaN"
    if remedy:
        raise ValueError(f"images: expected {form} of {dtype} in [0, 1], got {got}; {remedy}")


def _fit(sides: torch.Size, side: int, multiples: bool) -> bool:
    return all(n > 0 and n % side == 0 for n in sides) if multiples else sides == (side, side)


def check_slots(slots: Tensor, dim: int) -> None:
    """Raises ValueError unless `slots` are [B, K, dim]."""
    if slots.ndim != 3 or slots.shape[2] != dim:
        raise ValueError(
            f"slots: expected [B, K, {dim}], got {list(slots.shape)}; take them from the encoder that "
            f"this model was trained with"
        )


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """No autocast on the device of `like`, where there is any: without, models can be exported."""
    device = like.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # there is none on "meta"
    return torch.autocast(device, enabled=False) if on else nullcontext()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode inside a `with` block; its mode is restored, also after an error.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> with evaluating(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def initialise(module: nn.Module) -> None:
    """He-normal convolutions, Glorot-uniform dense layers, orthogonal recurrence, zero biases.

    For use with `nn.Module.apply`. Near to the published TensorFlow implementation (He et al. 2015,
    arXiv 1502.01852; Glorot and Bengio 2010); PyTorch's defaults draw convolutions with a third of
    the variance that keeps a signal's size. All convolutions are drawn as if a ReLU followed.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.ConvTranspose2d):
            module.weight.data.mul_(module.stride[0])  # one in stride^2 of the kernel meets a pixel
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


def weights_hash(model: nn.Module, config: str = "", forms: bool = True) -> str:
    """SHA-256, in hexadecimal, over `config`, then names and values of all weights, by name.

    Device and mode (training or evaluation) make no difference, nor do saving and loading. With
    `forms`, the dtype and shape of each tensor are hashed with its name.
    """
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update((f"{name} {values.dtype} {list(tensor.shape)}" if forms else name).encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(model: "Model") -> str:
    """SHA-256, in hexadecimal, that only models of one config and weights, bit by bit, share."""
    return weights_hash(model, config=json.dumps(model.config, sort_keys=True))
