"""Making, saving and loading models; a model folder holds `config.json` and `model.safetensors`, nothing pickled."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from slotlab.config import changed, preset_names, run_config
from slotlab.errors import CheckpointError, ConfigError, nearest
from slotlab.files import replacing
from slotlab.models import MODELS, LatentAutoencoder, Model, SlotDiffusion
from slotlab.models.building import check_arguments
from slotlab.models.latent_autoencoder import FAMILIES
from slotlab.released import HUB_PREFIX, check, model_folder, released_names

START, PAINT = "slot_attention.start", "to_rgb_and_mask."
COLOURS_AND_MASK = 4
NOISE = 0.3  # of a new slot's start, in standard deviations of all starts


def grown(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Tensor], list[str]]:
    """Makes the weights of a slot encoder or a broadcast decoder fit a larger one.

    Slots with learned starts, two at least, become more: a new one begins as one of the old ones but for the first,
    which is the background's where training makes it so; with noise, so that the two part. A cell comes to paint a
    whole number of times as many pixels on a side: each of the old ones is painted several times.

    Args:
        weights: state of the smaller part.
        shapes: of the tensors in the larger part.

    Returns:
        The weights, those that need no growth or cannot grow as they are, and what has grown, in words.
    """
    result, said = dict(weights), []
    for name, wanted in shapes.items():
        given = weights.get(name)
        if given is None or given.shape == wanted:
            continue
        if name == START and 1 < given.shape[1] < wanted[1]:
            result[name] = _with_more_slots(given, wanted[1])
            said.append(f"{given.shape[1]} to {wanted[1]} slots")
        elif name.startswith(PAINT) and (factor := _whole_factor(len(given), wanted[0])):
            result[name] = _with_more_pixels(given, factor)
            if name.endswith(".weight"):
                said.append(f"each pixel to {factor}x{factor}")
    return result, said


def _with_more_slots(start: Tensor, slots: int) -> Tensor:
    """Starts [1, K, D] of K slots, and after them those of new ones."""
    like = torch.arange(slots - start.shape[1]) % (start.shape[1] - 1) + 1
    noise = torch.randn(len(like), start.shape[2], generator=torch.Generator().manual_seed(0))
    return torch.cat([start, start[:, like] + NOISE * start.std() * noise.to(start)], dim=1)


def _with_more_pixels(painted: Tensor, factor: int) -> Tensor:
    """[4 * s * s, ...] to [4 * (factor * s)^2, ...], as `nn.PixelShuffle` orders channels."""
    side = round((len(painted) / COLOURS_AND_MASK) ** 0.5)
    pixels = painted.unflatten(0, (COLOURS_AND_MASK, side, side))
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten(0, 2)


def _whole_factor(small: int, large: int) -> int | None:
    """By what whole number above 1 the side grows, where channels do from `small` to `large`."""
    factor = round((large / small) ** 0.5)
    return factor if factor > 1 and small * factor**2 == large else None


def load_diffusers_autoencoder(name: str | Path, resolution: int, subfolder: str | None = None) -> LatentAutoencoder:
    """A pretrained autoencoder with its own scaling, in evaluation mode.

    Args:
        name: a folder that `save_pretrained` of `diffusers` wrote, or a name on the hub. Only safetensors are read,
            never pickles.
        resolution: side of the images that it is to take.
        subfolder: where in the folder or repository the autoencoder is, e.g. "vae".

    Raises:
        CheckpointError: nothing there, another kind of model, or weights that are missing or damaged.
        ConfigError: a resolution that the autoencoder's downsampling does not divide.
    """
    import diffusers
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    shown = f"{name}/{subfolder}" if subfolder else str(name)
    where: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    try:
        config = AutoencoderKL.load_config(str(name), **where)
    except Exception as error:  # diffusers raises OSError, ValueError and hub errors for the same cause
        raise CheckpointError(
            f"{shown}: no autoencoder found ({error}); give a folder with config.json and "
            f"diffusion_pytorch_model.safetensors, a hub name that can be reached, or autoencoder.subfolder"
        ) from None
    class_name = config.get("_class_name") if isinstance(config, dict) else None
    family = next((family for family, known in FAMILIES.items() if known == class_name), None)
    if family is None:
        raise CheckpointError(f"{shown}: is a {class_name}, not one of {', '.join(FAMILIES.values())}")
    made = getattr(diffusers, FAMILIES[family])
    try:
        loaded = made.from_pretrained(str(name), use_safetensors=True, low_cpu_mem_usage=False, **where)
    except Exception as error:
        raise CheckpointError(
            f"{shown}: the weights do not load ({error}); they must be whole, in safetensors form, and fit config.json"
        ) from error
    known = inspect.signature(made.__init__).parameters
    network = {key: value for key, value in dict(loaded.config).items() if key in known and key != "self"}
    network = json.loads(json.dumps(network))
    wrapped = LatentAutoencoder(resolution, family, network=network, source=shown)  # type: ignore[arg-type]
    wrapped.network.load_state_dict(loaded.state_dict())
    return wrapped.eval()


CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def list_models(pretrained: bool = False) -> list[str]:
    """Names that `create_model` and `slotlab train` know, sorted; with `pretrained`, those whose weights come along."""
    return released_names() if pretrained else preset_names()


def create_model(name: str, pretrained: bool = False, **overrides: Any) -> Model:
    """A fresh, untrained model; or, with `pretrained`, a trained one with changes that leave its weights as they are.

    Args:
        name: a preset (`list_models()`), or the path of a preset file; with `pretrained` what `load` takes.
        pretrained: take trained weights, in evaluation mode, as `load` does.
        overrides: changes to the model, e.g. `slots=7`; dotted keys as in `**{"decoder.channels": 32}`.

    Raises:
        ConfigError: an unknown preset or key (the nearest is suggested), or a value out of range.
        CheckpointError: as `load`, or the changes do not leave the weights as they are.
    """
    if not pretrained:
        return model_from_config(run_config(name, overrides).model)
    folder = model_folder(name)
    check(folder, CONFIG_FILE, WEIGHTS_FILE)
    model = model_from_config_file(folder / CONFIG_FILE, overrides)
    _load_weights(model, folder / WEIGHTS_FILE)
    return model.eval()


def model_from_config(config: Mapping[str, Any]) -> Model:
    """The model that a `config.json` (or a preset's `model` section) describes, with fresh weights.

    Raises:
        ConfigError: an unknown kind or key, or a value out of range.
    """
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    autoencoder = arguments.get("autoencoder")
    if isinstance(autoencoder, Mapping) and "pretrained" in autoencoder:
        arguments["autoencoder"] = load_autoencoder(
            autoencoder["pretrained"], arguments.get("resolution", 128), autoencoder.get("subfolder")
        )
    if str(kind) not in MODELS:
        raise ConfigError(f"model.kind: unknown kind {kind!r}{nearest(str(kind), list(MODELS))}")
    check_arguments("model", MODELS[kind], arguments)
    return MODELS[kind](**arguments)


def save(model: Model, folder: str | Path, *, half: bool = False) -> None:
    """Writes `config.json` and `model.safetensors` into `folder`, each whole or not at all.

    Args:
        model: what to save.
        folder: where to.
        half: round the parameters to float16, for half the size; buffers stay as they are.

    Raises:
        CheckpointError: with `half`, a parameter beyond the range of float16.
    """
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name in (name for name, _ in model.named_parameters() if half):
        weights[name] = weights[name].half()
        if not bool(torch.isfinite(weights[name]).all()):
            raise CheckpointError(f"{name}: holds values that are not finite in float16; save it without half")
    with replacing(folder / CONFIG_FILE) as path:
        path.write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
    with replacing(folder / WEIGHTS_FILE) as path:
        # save_file would let nobody but the owner read it
        path.write_bytes(save_tensors(weights, metadata={"format": "pt"}))


def load(name: str | Path, device: str | torch.device = "cpu") -> Model:
    """A trained model in float32, in evaluation mode.

    Args:
        name: a run folder or any folder with a config and weights; or a model that comes with slotlab
            (`list_models(pretrained=True)`), which needs no network; or `owner/name` of one on the Hugging Face Hub,
            see `slotlab.released.model_folder`.
        device: where to.

    Raises:
        CheckpointError: an unknown name (the nearest is suggested); a file that is missing, damaged, not the one that
            was released, or holds tensors that do not fit the config; the message names the file. A pickle is refused
            without being opened.
    """
    return create_model(str(name), pretrained=True).to(device)


def load_autoencoder(name: str | Path, resolution: int, subfolder: str | None = None) -> LatentAutoencoder:
    """A pretrained autoencoder with its own scaling, in evaluation mode.

    Args:
        name: a folder that `slotlab train` or `save_pretrained` of `diffusers` wrote; a released model of slotlab (that
            on the hub as `hf:owner/name`); or `owner/name` of one of `diffusers` on the hub. Of slot diffusion its own
            autoencoder is taken. Only safetensors are read, never pickles.
        resolution: side of the images that it is to take.
        subfolder: where in the folder or repository the autoencoder is, e.g. "vae".

    Raises:
        CheckpointError: nothing there, another kind of model, or weights that are missing or damaged.
        ConfigError: a resolution that the autoencoder's downsampling does not divide.
    """
    named = str(name) in released_names() or str(name).startswith(HUB_PREFIX)
    folder = model_folder(name) if named else Path(name) / (subfolder or "")
    if not _holds_model(folder):
        return load_diffusers_autoencoder(name, resolution, subfolder)
    model = load(folder)
    autoencoder = model.autoencoder if isinstance(model, SlotDiffusion) else model
    if not isinstance(autoencoder, LatentAutoencoder):
        raise CheckpointError(
            f"{folder}: holds a {model.kind}, not a {LatentAutoencoder.kind}; give the folder of a stage-1 run"
        )
    arguments = {key: value for key, value in autoencoder.config.items() if key != "kind"}
    source = str(name if named else folder)
    resized = LatentAutoencoder(**{**arguments, "resolution": resolution, "source": source})
    resized.load_state_dict(autoencoder.state_dict())
    return resized.eval()


def take_parts(model: Model, folder: str | Path) -> dict[str, list[str]]:
    """Copies into `model` each part (its `encoder`, `decoder`, `denoiser`) that a saved model has in the same form.

    What it learned outside of its parts (the empty slot of slot diffusion) comes along. A part may also be smaller:
    with fewer learned slots, or fewer pixels per painted cell; see `models.growing.grown`.
    Frozen parts are left as they are: the latents of slot diffusion are those of its own autoencoder.

    Returns:
        The names of the parts taken, and in words what of each has grown.

    Raises:
        CheckpointError: the folder holds no model, or none of its parts has the form of `model`'s or grows into it.
    """
    given, taken, differences = load(folder), {}, []
    for name, part in model.named_children():
        other = getattr(given, name, None)
        if other is None or not any(parameter.requires_grad for parameter in part.parameters()):
            continue
        shapes = {key: tensor.shape for key, tensor in part.state_dict().items()}
        weights, growth = grown(other.state_dict(), shapes)
        if {key: tensor.shape for key, tensor in weights.items()} == shapes:
            part.load_state_dict(weights)
            taken[name] = growth
        else:
            differences.append(name)
    for name, parameter in model.named_parameters(recurse=False):
        other = getattr(given, name, None)
        if isinstance(other, Tensor) and other.shape == parameter.shape:
            parameter.data.copy_(other.detach())
    if not taken:
        unlike = f"; {' and '.join(differences)} differ in form: compare {folder}/{CONFIG_FILE}" if differences else ""
        raise CheckpointError(f"{folder}: a {given.kind}, has no part to start a {model.kind} from{unlike}")
    return taken


def model_from_config_file(path: Path, overrides: Mapping[str, Any] | None = None) -> Model:
    """The model that a `config.json` describes, with changes as `create_model` takes them.

    Raises:
        CheckpointError: the file is missing or wrong, or does not go with the changes; the message names it.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ConfigError("not a JSON object")
        return model_from_config(changed({"model": config}, overrides or {})["model"])
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); restore it from another checkpoint") from None
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _holds_model(folder: Path) -> bool:
    """Whether `save` wrote this folder: a config of `diffusers` names no kind."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "kind" in config


def _load_weights(model: Model, path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}")
    try:
        weights = load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); see who may read it") from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a whole safetensors file ({error}); it is truncated, or of another format such as a "
            f"pickle, which slotlab never opens. Take another checkpoint of the run"
        ) from None
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [f"missing tensor {name}" for name in wanted.keys() - found.keys()]
    problems += [f"extra tensor {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {list(found[name])}, the config wants {list(wanted[name])}"
        for name in wanted.keys() & found.keys()
        if wanted[name] != found[name]
    ]
    if problems:
        raise CheckpointError(f"{path}: does not fit {CONFIG_FILE}: {'; '.join(sorted(problems)[:5])}")
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    )
