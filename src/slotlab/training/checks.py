"""What is checked before a run begins, so that it fails at once and not after hours."""

from pathlib import Path
from typing import Any

from slotlab.data import SlotDataset
from slotlab.errors import ConfigError
from slotlab.models import LatentAutoencoder, Model, SlotAutoencoder, SlotDiffusion
from slotlab.presets.config import RUN_FILE, RunConfig, read_run_config
from slotlab.training.checkpoint import newest_checkpoint

# What a resumed run may change: nothing here alters what is computed in the steps to come.
CHANGEABLE = {"evaluate_every", "preview_every", "checkpoint_every", "keep_checkpoints", "workers", "compile"}


def check_folder(config: RunConfig, folder: Path, resume: bool) -> Path | None:
    """The checkpoint to resume from, if any; ConfigError if the folder holds something else."""
    run_file = folder / RUN_FILE
    if resume and run_file.is_file():
        earlier = read_run_config(run_file)
        changed = _differences(earlier.model_dump(), config.model_dump())
        if changed:
            raise ConfigError(
                f"{folder}: cannot resume with other settings: {'; '.join(changed)}; "
                f"give the run's own values, or train anew with another --out"
            )
        return newest_checkpoint(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remedy = "go on with --resume, or give another --out" if run_file.is_file() else "give another --out"
        raise ConfigError(f"{folder}: exists and is not empty; {remedy}")
    return None


def check_settings(model: Model, config: RunConfig, processes: int) -> None:
    """Raises ConfigError where the training settings do not suit the kind of model, or each other."""
    settings = config.training
    if settings.batch_size % (settings.accumulate * processes):
        raise ConfigError(
            f"training.accumulate: batch_size={settings.batch_size} does not divide into {settings.accumulate} equal "
            f"parts in each of {processes} processes"
        )
    if isinstance(model, LatentAutoencoder) and settings.mask_penalty:
        raise ConfigError("training.mask_penalty: a latent autoencoder has no masks; leave it out")
    for name in ("background_penalty", "sharing_penalty", "attention_loss", "colour_loss"):
        if not isinstance(model, SlotAutoencoder) and getattr(settings, name):
            raise ConfigError(f"training.{name}: needs what a slot autoencoder's decoder paints; leave it out")
    if settings.cross_attention_loss and not isinstance(model, SlotDiffusion):
        raise ConfigError("training.cross_attention_loss: only slot diffusion has a denoiser to attend; leave it out")
    if settings.cross_attention_loss and isinstance(model, SlotDiffusion) and model.empty_slot is not None:
        raise ConfigError(
            "training.cross_attention_loss: with slot_dropout or guidance_dropout the denoiser would learn to look at "
            "empty slots; leave one or the other out"
        )
    if settings.encoder_steps is not None and isinstance(model, LatentAutoencoder):
        raise ConfigError("training.encoder_steps: this model has no slot encoder; leave it out")
    if settings.freezes_encoder and settings.start_from is None:
        raise ConfigError(
            f"training.encoder_steps: after {settings.encoder_steps} steps slots would stay as they are, which is for "
            f"those that begin trained: add start_from=MODEL, or encoder_steps=none"
        )
    for name in ("background_penalty", "sharing_penalty"):
        if getattr(settings, name) and _initialisation(config) == "gaussian":
            raise ConfigError(
                f"training.{name}: slot 0 can only be the background's where slots can be told apart; add "
                f"initialisation=learned, or take mask_penalty=0.001 instead"
            )
    if settings.slot_noise_steps and _initialisation(config) != "bi-level":
        raise ConfigError(
            "training.slot_noise_steps: only bi-level slot starts take noise; add initialisation=bi-level"
        )
    if isinstance(model, SlotDiffusion) and "pretrained" not in config.model.get("autoencoder", {}):
        raise ConfigError(
            "autoencoder.pretrained: slot diffusion learns in the latents of a trained autoencoder. Train one "
            "(`slotlab train scenes-64-latents --out runs/latents`) and add autoencoder.pretrained=runs/latents; "
            "a folder or hub name of diffusers' AutoencoderKL, VQModel or AutoencoderTiny does too"
        )


def _initialisation(config: RunConfig) -> str:
    return config.model.get("slot_attention", {}).get("initialisation", "gaussian")


def check_data(data: SlotDataset, processes: int) -> None:
    """Raises ConfigError if there are fewer training images than processes, of which some would only repeat others."""
    if len(data) < processes:
        found = len(data)
        raise ConfigError(
            f"{data.describe()['data']}: {found} training images for {processes} processes; start at most {found}"
        )


def check_latents(data: dict[str, Any], autoencoder: LatentAutoencoder) -> None:
    """Raises ConfigError if the data brings the latents of another autoencoder along."""
    if data.get("latents") not in (None, autoencoder.fingerprint()):
        raise ConfigError(
            f"{data['data']}: its latents are those of another autoencoder than autoencoder.pretrained; pack the "
            f"source again with `slotlab data pack ... --latents` and the folder of that autoencoder"
        )


def _differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _differences(old, new, f"{prefix}{key}.")
        elif old != new and key not in CHANGEABLE:
            changed.append(f"{prefix}{key} was {old!r}, now {new!r}")
    return changed
