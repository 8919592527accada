"""What a run begins with where its settings name a model that was trained before."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from slotlab import checkpoints
from slotlab.config import RUN_FILE, RunConfig, TrainingSettings, read_run_config
from slotlab.data import Remembered, Scenes, SlotDataset, open_data
from slotlab.errors import ConfigError
from slotlab.models import LatentAutoencoder, Model, SlotAutoencoder, SlotDiffusion
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


ENDLESS = 1_000_000_000
MOST_REMEMBERED = 100_000


def open_split(config: RunConfig, split: str, device: torch.device | str = "cpu") -> SlotDataset:
    """The train or val split that `config.data` names, at the model's resolution.

    Scenes are rendered on `device`, fresh ones for ever in training unless `train_count` is set; on a CPU a limited
    number of them is kept in memory.

    Raises:
        DataError: the data set is missing or broken.
        ConfigError: the config does not say the model's resolution.
    """
    data = config.data
    count = data.train_count if split == "train" else data.validation_count
    resolution = config.model.get("resolution")
    if type(resolution) is not int or resolution < 1:
        raise ConfigError(f"model.resolution: a whole number of pixels is needed, not {resolution!r}")
    if data.source.startswith("scenes:"):
        scenes = open_data(
            data.source,
            split=split,
            resolution=resolution,
            count=count or (ENDLESS if split == "train" else None),
            seed=data.scene_seed,
            min_objects=data.min_objects,
            max_objects=data.max_objects,
            supersample=data.supersample,
            device=device,
        )
        on_cpu = torch.device(device).type == "cpu"
        return (
            Remembered(scenes) if on_cpu and isinstance(scenes, Scenes) and len(scenes) <= MOST_REMEMBERED else scenes
        )
    return open_data(
        data.source,
        split=split,
        resolution=resolution,
        crop=data.crop,
        count=count or None,
        skip_broken=data.skip_broken,
    )


def start_from(source: str, model: Model, settings: TrainingSettings, average: Model | None = None) -> str:
    """Copies into a model, and into the average of its weights, the parts of another as `checkpoints.take_parts` does.

    Returns:
        In words which parts were taken, what of them has grown, and which are fresh.

    Raises:
        CheckpointError: `source` names no model, or none with a part for this one.
        ConfigError: a slot encoder, or slots, that have learned nothing would stay so by `encoder_steps`.
    """
    taken = checkpoints.take_parts(model, source)
    if settings.freezes_encoder and taken.get("encoder") != []:
        form = "fewer slots: the new ones" if "encoder" in taken else "another form: a fresh one"
        raise ConfigError(
            f"training.encoder_steps: the slot encoder of {source} has {form} would stay untrained after "
            f"{settings.encoder_steps} steps; add encoder_steps=none"
        )
    if average is not None:
        checkpoints.take_parts(average, source)
    parts = [f"{part} (grown: {', '.join(growth)})" if growth else part for part, growth in taken.items()]
    fresh = [name for name, part in model.named_children() if name not in taken and _learns(part)]
    return f"starting from {source}: {', '.join(parts)}" + (f"; fresh: {', '.join(fresh)}" if fresh else "")


def _learns(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
