"""Pretrained latent autoencoders of `diffusers`, by folder or hub name."""

import inspect
import json
from pathlib import Path
from typing import Any

from slotlab.errors import CheckpointError
from slotlab.models.autoencoder_network import FAMILIES
from slotlab.models.latent_autoencoder import LatentAutoencoder


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
