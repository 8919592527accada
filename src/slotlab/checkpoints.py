"""Models in folders: make, save, load, and take parts of one for another.

A model folder holds `config.json` and `model.safetensors`; nothing in it is pickled.
"""

import inspect
import json
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from slotlab.config import changed, dotted, preset_names, run_config
from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.files import read_json, regular, replacing, write_json
from slotlab.models import (
    MODELS,
    Denoiser,
    FeatureAutoencoder,
    FeatureGrouping,
    FrozenFeatures,
    LatentAutoencoder,
    Model,
    SlotDiffusion,
    VideoModel,
)
from slotlab.models.building import check_arguments
from slotlab.models.frozen_features import LITE0, TIMM
from slotlab.models.latent_autoencoder import FAMILIES
from slotlab.models.relative_frames import without_frame
from slotlab.released import HUB_PREFIX, check, model_folder, released_names

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
NOISE = 0.3  # of a new slot's start, in standard deviations of all starts
START = "slot_attention.start"
CONV_IN = "conv_in.weight"  # of a denoiser
ADDED = ("registers", "last.")  # parts of a denoiser that a trained one may get


def list_models(pretrained: bool = False) -> list[str]:
    """Names of presets, sorted; with `pretrained`, of the bundled trained models.

    Example:
        >>> "scenes-32" in list_models(), "scenes-64" in list_models(pretrained=True)
        (True, True)
    """
    return released_names() if pretrained else preset_names()


def create_model(name: str, pretrained: bool = False, **overrides: Any) -> Model:
    """Makes an untrained model, or a trained one with changes that keep its weights.

    Args:
        name: a preset (`list_models()`) or the path of a preset file; with `pretrained` a name as
            for `load`.
        pretrained: load trained weights, in evaluation mode.
        overrides: changes to the model: `slots=7`, or dotted as in `**{"decoder.channels": 32}`.
            With other `slots` than trained with learned starts, a model keeps the first starts, or
            new ones begin as old ones with noise (`grown`).

    Raises:
        ConfigError: an unknown preset or key (the nearest is suggested), or a value out of range.
        CheckpointError: as `load`; or the trained weights do not fit the changes.

    Example:
        >>> model = create_model("scenes-32", slots=5)
        >>> model.slots, model.resolution
        (5, 32)
    """
    if not pretrained:
        return model_from_config(run_config(name, overrides).model)
    folder = model_folder(name)
    check(folder, CONFIG_FILE, WEIGHTS_FILE)
    config, weights = _read_config(folder / CONFIG_FILE), _read_weights(folder / WEIGHTS_FILE)
    try:
        trained = config.get("slot_attention", {}).get("slots")
        config = changed({"model": config}, overrides)["model"]
        if "pretrained" in config.get("autoencoder", {}):
            raise ConfigError("autoencoder.pretrained: a saved model holds its own autoencoder; leave it out")
        with _as_large_as(weights):
            outline = _outline(config).state_dict()
        if config.get("slot_attention", {}).get("slots") != trained:
            weights |= _starts(weights, outline)
        _check_fit(folder / WEIGHTS_FILE, weights, outline)
        model = model_from_config(config)
    except CheckpointError:
        raise
    except Exception as error:  # of any constructor that a config has led astray
        first = str(error).partition("\n")[0]
        raise CheckpointError(f"{folder / CONFIG_FILE}: {first}") from error
    model.load_state_dict(weights)
    return model.eval()


def load(name: str | Path, device: str | torch.device = "cpu") -> Model:
    """Loads a trained model in float32, in evaluation mode.

    Args:
        name: a run folder or another folder with a config and weights; a bundled model
            (`list_models(pretrained=True)`), which needs no network; or `owner/name` on the Hugging
            Face Hub (`slotlab.released.model_folder`).
        device: device of the model.

    Raises:
        CheckpointError: an unknown name (the nearest is suggested); or a file that is missing,
            damaged, changed since its release, a pickle, or does not fit the config.

    Example:
        >>> import torch
        >>> model = load("scenes-64")
        >>> model(torch.rand(2, 3, 64, 64), torch.Generator().manual_seed(0)).masks.shape
        torch.Size([2, 7, 64, 64])
    """
    return create_model(str(name), pretrained=True).to(device)


def save(model: Model | nn.Module, folder: str | Path, *, half: bool = False) -> None:
    """Writes `config.json` and `model.safetensors` into `folder`, each whole or not at all.

    The model may be wrapped: by `torch.compile`, `DataParallel`, DDP, Fabric or a moving average.
    With `half`, parameters, not buffers, are rounded to float16: CheckpointError if too large.
    """
    while (inner := getattr(model, "_orig_mod", None) or getattr(model, "module", None)) is not None:
        model = inner
    config: dict[str, Any] = cast(Any, model).config
    folder, compiled = Path(folder), "_orig_mod."  # in the names of compiled parts
    weights = {
        name.replace(compiled, ""): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    for name in (name.replace(compiled, "") for name, _ in model.named_parameters() if half):
        weights[name] = weights[name].half()
        if not bool(torch.isfinite(weights[name]).all()):
            raise CheckpointError(f"{name}: holds values that are not finite in float16; save it without half")
    write_json(folder / CONFIG_FILE, {**config, "settings": list(dotted(config))}, synced=True)
    content = save_tensors(weights, metadata={"format": "pt"})
    with replacing(folder / WEIGHTS_FILE, synced=True, size=len(content)) as path:
        path.write_bytes(content)  # save_file makes files that only their owner may read


def model_from_config(config: Mapping[str, Any]) -> Model:
    """Makes the model of a `config.json`, or of a preset's `model` section, with fresh weights."""
    arguments = without_frame(config)
    kind = arguments.pop("kind", None)
    part = arguments.get("autoencoder")
    if isinstance(part, Mapping) and "pretrained" in part:
        resolution = arguments.get("resolution", 128)
        arguments["autoencoder"] = load_autoencoder(part["pretrained"], resolution, part.get("subfolder"))
    if str(kind) not in MODELS:
        raise ConfigError(f"model.kind: unknown kind {kind!r}{nearest(str(kind), list(MODELS))}")
    video = arguments.pop("video", None)
    check_arguments("model", MODELS[kind], arguments)
    model = MODELS[kind](**arguments)
    if video is None:
        return model
    if isinstance(model, LatentAutoencoder | FeatureGrouping):
        raise ConfigError(f"video: a {model.kind} has no slot attention; leave the section out")
    check_arguments("video", VideoModel, video, reserved={"image_model"})
    return VideoModel(model, **video)


def load_autoencoder(name: str | Path, resolution: int, subfolder: str | None = None) -> LatentAutoencoder:
    """Loads a trained autoencoder with its scaling, in evaluation mode; never reads pickles.

    Args:
        name: a folder that `slotlab train` or `save_pretrained` of diffusers wrote; a bundled model
            of slotlab, or one on the hub as `hf:owner/name`; or `owner/name` of a diffusers model
            on the hub. Slot diffusion gives its autoencoder.
        resolution: side of the images.
        subfolder: where in the folder or repository the autoencoder is, e.g. "vae".
    """
    named = str(name) in released_names() or str(name).startswith(HUB_PREFIX)
    folder = model_folder(name) if named else Path(name) / (subfolder or "")
    path = folder / CONFIG_FILE
    if not path.is_file() or "kind" not in read_json(path, "give another folder"):
        return _load_diffusers_autoencoder(name, resolution, subfolder)
    model = load(folder)
    autoencoder = model.autoencoder if isinstance(model, SlotDiffusion) else model
    if not isinstance(autoencoder, LatentAutoencoder):
        raise CheckpointError(
            f"{folder}: holds a {model.kind}, not a {LatentAutoencoder.kind}; give the folder of a stage-1 run"
        )
    source = str(name if named else folder)
    arguments = {**autoencoder.config, "resolution": resolution, "source": source}
    del arguments["kind"]
    resized = LatentAutoencoder(**arguments)
    resized.load_state_dict(autoencoder.state_dict())
    return resized.eval()


def frozen_features(name: str | Path, resolution: int) -> FrozenFeatures:
    """A frozen network for images of `resolution`, to pack its features.

    Args:
        name: "efficientnet-lite0", "timm:NAME", or a preset or model folder with such features.
        resolution: side of the images.

    Raises:
        CheckpointError: the network is not installed, or there is no such model.
        ConfigError: the preset's model has no frozen features, or another resolution.
    """
    if str(name) == LITE0 or str(name).startswith(TIMM):
        return FrozenFeatures(resolution, str(name))
    if str(name) in preset_names() or Path(name).suffix in (".yaml", ".yml"):
        config = run_config(str(name)).model
    else:
        config = _read_config(model_folder(name) / CONFIG_FILE)
    if config.get("kind") not in (FeatureAutoencoder.kind, FeatureGrouping.kind):
        raise ConfigError(f"{name}: a {config.get('kind')} has no frozen features; give {LITE0} or {TIMM}NAME")
    if (side := config.get("resolution", resolution)) != resolution:
        raise ConfigError(f"{name}: takes images of {side}x{side}; add --resolution {side}")
    check_arguments("features", FrozenFeatures, config.get("features", {}), reserved={"resolution"})
    return FrozenFeatures(resolution, **config.get("features", {}))


def _load_diffusers_autoencoder(name: str | Path, resolution: int, subfolder: str | None = None) -> LatentAutoencoder:
    import diffusers
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    where: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    shown = "/".join([str(name), *where.values()])
    try:
        config = AutoencoderKL.load_config(str(name), **where)
    except Exception as error:  # OSError, ValueError and hub errors for the same cause
        form = "config.json and diffusion_pytorch_model.safetensors"
        remedy = f"give a folder with {form}, a hub name that can be reached, or autoencoder.subfolder"
        raise CheckpointError(f"{shown}: no autoencoder found ({error}); {remedy}") from None
    class_name = config.get("_class_name") if isinstance(config, dict) else None
    families = {known: family for family, known in FAMILIES.items()}
    if class_name not in families:
        raise CheckpointError(f"{shown}: is a {class_name}, not one of {', '.join(families)}")
    made = getattr(diffusers, class_name)
    try:
        loaded = made.from_pretrained(str(name), use_safetensors=True, low_cpu_mem_usage=False, **where)
    except Exception as error:
        must = "they must be whole, in safetensors form, and fit config.json"
        raise CheckpointError(f"{shown}: the weights do not load ({error}); {must}") from error
    known = inspect.signature(made.__init__).parameters
    network = json.loads(json.dumps({key: value for key, value in loaded.config.items() if key in known}))
    wrapped = LatentAutoencoder(resolution, families[class_name], network=network, source=shown)  # type: ignore[arg-type]
    wrapped.network.load_state_dict(loaded.state_dict())
    return wrapped.eval()


def take_parts(model: Model, folder: str | Path, skip: Container[str] = ()) -> dict[str, list[str]]:
    """Copies parts (`encoder`, `decoder`, `denoiser`, ...) of a saved model if they have the same form.

    Learned values outside of parts, such as the empty slot of slot diffusion, are copied too. A
    part may also be smaller and grow (`grown`). Slot diffusion keeps its autoencoder, and all keep
    what is named in `skip`. Returns what grew in each part that was copied, in words.
    """
    source, taken, differing = load(folder), {}, []
    if isinstance(model, VideoModel):  # a video model starts from one of images, too
        if isinstance(source, VideoModel):
            for name in ("predictor", "cue"):
                part, other = (getattr(one, name, nn.Identity()).state_dict() for one in (model, source))
                if name not in skip and part and _shapes(part) == _shapes(other):
                    getattr(model, name).load_state_dict(other)
                    taken[name] = []
            source = source.image_model
        model = model.image_model
    for name, part in model.named_children():
        other = getattr(source, name, None)
        empty = next(part.parameters(), None) is None
        if other is None or empty or isinstance(part, LatentAutoencoder) or name in skip:
            continue
        if isinstance(part, Denoiser) and bool(part.painting_channels) != bool(other.painting_channels):
            differing.append(name)  # one denoises an image, the other what a painting lacks of it
            continue
        fresh = part.state_dict()
        shapes = _shapes(fresh)
        weights, growth = grown(other.state_dict(), shapes)
        if isinstance(part, Denoiser):  # what is added to a trained one starts as it was made
            added = {name: fresh[name] for name in fresh.keys() - weights.keys() if name.startswith(ADDED)}
            weights |= added
            growth += [f"0 to {shapes[name][1]} registers" for name in added if name == "registers"]
            growth += [f"{len(other.last)} to {len(part.last)} last blocks"] if len(part.last) > len(other.last) else []
        if _shapes(weights) == shapes:
            part.load_state_dict(weights)
            taken[name] = growth
        else:
            differing.append(name)
    for name, parameter in model.named_parameters(recurse=False):
        other = getattr(source, name, None)
        if name not in skip and isinstance(other, Tensor) and other.shape == parameter.shape:
            parameter.data.copy_(other.detach())
            taken[name] = []
    if not taken:
        beside = " beside those of the models before it" if skip else ""
        unlike = f"; {' and '.join(differing)} differ in form: compare {folder}/{CONFIG_FILE}" if differing else ""
        raise CheckpointError(f"{folder}: a {source.kind}, has no part to start a {model.kind} from{unlike}{beside}")
    return taken


def grown(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Tensor], list[str]]:
    """Makes the weights of a slot encoder, a decoder or a denoiser fit the `shapes` of a larger one.

    Learned slot starts, two at least, become more: a new slot starts as one of the old ones plus
    noise, but not as the first, which may be the background's. A decoder cell paints a whole
    multiple of pixels on a side: each old pixel is repeated. A denoiser sees more channels, such as
    a texture: with weights of 0. Also returns what grew, in words.
    """
    result, growth = dict(weights), []
    for name, wanted in shapes.items():
        before = weights.get(name)
        if before is None or before.shape == wanted:
            continue
        if name == START and 1 < before.shape[1] < wanted[1]:
            like = torch.arange(wanted[1] - before.shape[1]) % (before.shape[1] - 1) + 1
            noise = torch.randn(len(like), before.shape[2], generator=torch.Generator().manual_seed(0))
            result[name] = torch.cat([before, before[:, like] + NOISE * before.std() * noise.to(before)], dim=1)
            growth.append(f"{before.shape[1]} to {wanted[1]} slots")
        elif name == CONV_IN and before.shape[1] < wanted[1] and before[:, 0].shape == (wanted[0], *wanted[2:]):
            result[name] = before.new_zeros(wanted)
            result[name][:, : before.shape[1]] = before
            growth.append(f"{before.shape[1]} to {wanted[1]} channels")
        elif name.startswith("to_rgb_and_mask."):
            factor = round((wanted[0] / len(before)) ** 0.5)
            if factor > 1 and len(before) * factor**2 == wanted[0]:
                side = round((len(before) / 4) ** 0.5)
                pixels = before.unflatten(0, (4, side, side))  # in the order of nn.PixelShuffle
                result[name] = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten(0, 2)
                if name.endswith(".weight"):
                    growth.append(f"each pixel to {factor}x{factor}")
    return result, growth


def _starts(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Learned slot starts for the number of slots in `wanted`; empty if slots have one start."""
    found = {}
    for name in (f"encoder.{START}", f"image_model.encoder.{START}"):
        if name in weights and name in wanted and weights[name].ndim == 3:
            starts = grown({START: weights[name]}, {START: wanted[name].shape})[0][START]
            found[name] = starts[:, : wanted[name].shape[1]].contiguous()
    return found


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _read_config(path: Path) -> dict[str, Any]:
    """The config in a file; CheckpointError if a setting is gone, which a default would replace."""
    config = read_json(path, f"a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}")
    saved = config.pop("settings", [])
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise CheckpointError(f"{path}: settings: not a list of names; restore the file, or save the model again")
    gone = sorted({*saved} - {*dotted(config)})
    if gone:
        raise CheckpointError(f"{path}: {', '.join(gone)} missing; restore the file, or save the model again")
    return config


@contextmanager
def _as_large_as(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Raises ConfigError as soon as what is made inside has far more parameters than `weights`."""
    thread = threading.get_ident()
    left = [100 + 4 * len(weights), 2**24 + 4 * sum(tensor.numel() for tensor in weights.values())]

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        if parameter is not None and threading.get_ident() == thread:
            left[:] = left[0] - 1, left[1] - parameter.numel()
            if min(left) < 0:
                raise ConfigError(f"describes a far larger model than {WEIGHTS_FILE} holds")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _outline(config: Mapping[str, Any]) -> nn.Module:
    """The model of a config without memory for its weights, however large."""
    try:
        with torch.device("meta"):
            return model_from_config(config)
    except (RuntimeError, TypeError) as error:
        if "meta" not in str(error):
            raise
        return model_from_config(config)  # a part of the user's own needs numbers when it is made


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(regular(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); check its permissions") from None
    except SafetensorError as error:
        cause = "it is truncated, or of another format such as a pickle, which slotlab never opens"
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); {cause}. Take another checkpoint of the run"
        ) from None
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            remedy = "its training diverged; take an earlier checkpoint of the run"
            raise CheckpointError(f"{path}: tensor {name} has values that are not finite: {remedy}")
    return weights


def _check_fit(path: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """CheckpointError unless `weights` have the names, shapes and sort of numbers `wanted`."""
    problems = []
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in weights or name not in wanted:
            problems.append(f"{'extra' if name in weights else 'missing'} tensor {name}")
            continue
        found, want = weights[name], wanted[name]
        if found.shape != want.shape:
            problems.append(f"{name} has shape {list(found.shape)}, the config wants {list(want.shape)}")
        elif found.is_floating_point() != want.is_floating_point():
            problems.append(f"{name} has {found.dtype}, the model wants {want.dtype}")
    if problems:
        raise CheckpointError(f"{path}: does not fit {CONFIG_FILE}: {'; '.join(problems[:5])}")
