"""What a training run checks and opens before its first step."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout

from slotlab import checkpoints
from slotlab.config import RUN_FILE, RunConfig, TrainingSettings, read_run_config
from slotlab.data import Scenes, ScenesInMemory, SlotDataset, open_data
from slotlab.distributed import from_first, place_among_processes
from slotlab.errors import ConfigError
from slotlab.files import differences, is_free
from slotlab.models import (
    FeatureAutoencoder,
    FeatureGrouping,
    LatentAutoencoder,
    SlotAutoencoder,
    SlotDiffusion,
    TrainableModel,
    VideoModel,
)
from slotlab.training.checkpoint import check_loggers

# What a resumed run may change: nothing here alters what the next steps compute.
CHANGEABLE = {
    "training": {"evaluate_every", "preview_every", "checkpoint_every", "keep_checkpoints", "compile", "logger"},
    "data": {"workers"},
}
LOCK_FILE = ".lock"
ENDLESS = 1_000_000_000
MOST_IN_MEMORY = 100_000
FITTED_TO = 512  # images, to whose features a feature autoencoder fits their mean and components


def check_folder(config: RunConfig, folder: Path, resume: bool) -> None:
    """Raises ConfigError if the folder is neither free nor, with `resume`, holds the same run."""
    run_file = folder / RUN_FILE
    if resume and run_file.is_file():
        before, now = (one.model_dump(exclude=CHANGEABLE) for one in (read_run_config(run_file), config))
        if changed := differences(before, now):
            remedy = "use the run's own values, or start a new run with another --out"
            raise ConfigError(f"{folder}: cannot resume with other settings: {'; '.join(changed)}; {remedy}")
    elif not is_free(folder, LOCK_FILE):
        remedy = "add --resume to continue, or give another --out" if run_file.is_file() else "give another --out"
        raise ConfigError(f"{folder}: exists and is not empty; {remedy}")


@contextmanager
def only_process(folder: Path, patience: float) -> Iterator[None]:
    """Makes the run folder and keeps all other commands from training in it.

    Args:
        folder: the run folder.
        patience: seconds to wait for the workers of a killed command, which hold its lock.

    Raises:
        ConfigError: in every process, if another command trains there.
    """
    lock, locked = FileLock(folder / LOCK_FILE, thread_local=False), True
    if place_among_processes().is_first:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with suppress(NotImplementedError):  # a file system without locks
                lock.acquire(timeout=patience)
        except Timeout:
            locked = False
    if not from_first(locked):
        remedy = "wait until it has ended, or stop it; or give another --out"
        raise ConfigError(f"{folder}: another command is training this run; {remedy}")
    try:
        yield
    finally:
        lock.release()


def new_model(config: RunConfig) -> TrainableModel:
    """The untrained model of a run; ConfigError for a kind that has nothing to train."""
    model = checkpoints.model_from_config(config.model)
    if isinstance(model, FeatureGrouping):
        raise ConfigError(f"model.kind: a {model.kind} has nothing to train; use it as it is, by the name photos")
    return cast(TrainableModel, model)  # no config describes another clip model than a `VideoModel`


def check_settings(model: TrainableModel, config: RunConfig, processes: int) -> None:
    """Raises ConfigError if training settings do not suit the kind of model, or each other."""
    settings = config.training
    check_loggers(settings.logger)
    video, model = isinstance(model, VideoModel), getattr(model, "image_model", model)
    starts = config.model.get("slot_attention", {}).get("initialisation", "gaussian")

    def refuse(key: str, why: str, fault: object) -> None:
        if fault:
            raise ConfigError(f"training.{key}: {why}")

    uneven = f"batch_size={settings.batch_size} does not divide into {settings.accumulate} equal parts"
    in_each = f"{uneven} in each of {processes} processes"
    refuse("accumulate", in_each, settings.batch_size % (settings.accumulate * processes))
    if isinstance(model, LatentAutoencoder | VideoModel):
        refuse("teacher", "teaches slots of single images, which this model has not; leave it out", settings.teacher)
    if isinstance(model, LatentAutoencoder):
        refuse("mask_penalty", "a latent autoencoder has no masks; leave it out", settings.mask_penalty)
        no_encoder = "this model has no slot encoder; leave it out"
        refuse("encoder_steps", no_encoder, settings.encoder_steps is not None)
    if not isinstance(model, SlotAutoencoder):
        keys = ["background_penalty", "sharing_penalty", "colour_loss"]
        for key in keys if isinstance(model, FeatureAutoencoder) else [*keys, "attention_loss"]:
            refuse(key, "needs the decoder of a slot autoencoder; leave it out", getattr(settings, key))
    for key in ("contrast_loss", "prediction_loss"):
        refuse(key, "needs a video model; leave it out", getattr(settings, key) and not video)
        alone = "would train the texture, which is for the denoiser alone; set it to 0"
        refuse(key, alone, getattr(settings, key) and getattr(model, "texture", None) is not None)
    if settings.cross_attention_loss:
        only = "only slot diffusion has cross-attention; leave it out"
        refuse("cross_attention_loss", only, not isinstance(model, SlotDiffusion))
        refuse("cross_attention_loss", "a video model keeps no cross-attention; leave it out", video)
        both = "with slot_dropout or guidance_dropout the denoiser would learn to look at empty slots; leave one out"
        refuse("cross_attention_loss", both, getattr(model, "empty_slot", None) is not None)
    early = f"would freeze slots after {settings.encoder_steps} steps: add start_from=MODEL, or encoder_steps=none"
    refuse("encoder_steps", early, settings.freezes_encoder and settings.start_from is None)
    for key in ("background_penalty", "sharing_penalty"):
        random = "random slots are interchangeable; add initialisation=learned, or use mask_penalty=0.001 instead"
        refuse(key, random, getattr(settings, key) and starts == "gaussian")
    noise = "only bi-level slot starts take noise; add initialisation=bi-level"
    refuse("slot_noise_steps", noise, settings.slot_noise_steps and starts != "bi-level")
    paints = isinstance(model, SlotDiffusion) and model.decoder is not None
    drift = "slots must stay as the decoder knows them; set it to 0"
    refuse("encoder_steps", drift, paints and settings.encoder_steps != 0)
    alone = "says how a teacher's masks are learned; add teacher=MODEL, or leave it out"
    for key in ("teacher_pixels", "teacher_merged", "teacher_balance"):
        refuse(key, alone, getattr(settings, key) and settings.teacher is None)
    if isinstance(model, SlotDiffusion) and "pretrained" not in config.model.get("autoencoder", {}):
        raise ConfigError(
            "autoencoder.pretrained: slot diffusion learns in the latents of a trained autoencoder. Train one "
            "(`slotlab train scenes-64-latents --out runs/latents`) and add autoencoder.pretrained=runs/latents; "
            "a folder or hub name of an AutoencoderKL, VQModel or AutoencoderTiny of diffusers works too"
        )


def check_data(data: SlotDataset, processes: int) -> None:
    """Raises ConfigError if there are fewer training images than processes."""
    if (found := len(data)) < processes:
        name = data.describe()["data"]
        raise ConfigError(f"{name}: {found} training images for {processes} processes; start at most {found}")


def check_latents(data: dict[str, Any], autoencoder: LatentAutoencoder) -> None:
    """Raises ConfigError if the data was packed with the latents of another autoencoder."""
    if data.get("latents") not in (None, autoencoder.fingerprint()):
        remedy = "pack the source again with `slotlab data pack ... --latents` and the folder of that autoencoder"
        raise ConfigError(
            f"{data['data']}: its latents are of another autoencoder than autoencoder.pretrained; {remedy}"
        )


def check_features(data: dict[str, Any], model: FeatureAutoencoder) -> None:
    """Raises ConfigError if the data was packed with the features of another frozen network."""
    if data.get("features") not in (None, model.encoder.backbone.fingerprint()):
        remedy = "pack the source again with `slotlab data pack ... --features` and this preset"
        raise ConfigError(f"{data['data']}: its features are of another network than model.features; {remedy}")


def fit_features(model: FeatureAutoencoder, data: SlotDataset, device: torch.device) -> None:
    """Measures the statistics and components of a model's frozen features on the first images."""
    features = model.encoder.backbone
    count = min(FITTED_TO, len(data))

    def raw() -> Iterator[torch.Tensor]:
        for start in range(0, count, 32):
            batch = data.batch(range(start, min(start + 32, count)))
            yield batch["features"] if "features" in batch else features.raw(batch["image"].flatten(0, -4).to(device))

    features.fit(raw())


def open_split(config: RunConfig, split: str, device: torch.device | str = "cpu") -> SlotDataset:
    """The train or val split of `config.data`, at the model's resolution.

    Scenes are rendered on `device`: without end in training unless `train_count` is set. On a CPU a
    limited number of them is kept in memory.
    """
    data = config.data
    count = data.train_count if split == "train" else data.validation_count
    resolution = config.model.get("resolution")
    if type(resolution) is not int or resolution < 1:
        raise ConfigError(f"model.resolution: must be a whole number of pixels, not {resolution!r}")
    if not data.source.startswith("scenes:"):
        options: dict[str, Any] = data.model_dump(include={"crop", "skip_broken"})
        options |= {} if data.frames is None else {"frames": data.frames}
        options |= {} if data.stride == 1 else {"stride": data.stride}
        return open_data(data.source, split=split, resolution=resolution, count=count or None, **options)
    options = data.model_dump(include={"min_objects", "max_objects", "supersample", "frames"})
    options |= {"count": count or (ENDLESS if split == "train" else None), "seed": data.scene_seed, "device": device}
    scenes = open_data(data.source, split=split, resolution=resolution, **options)
    on_cpu = torch.device(device).type == "cpu"
    return ScenesInMemory(scenes) if on_cpu and isinstance(scenes, Scenes) and len(scenes) <= MOST_IN_MEMORY else scenes


def start_from(model: TrainableModel, settings: TrainingSettings, average: TrainableModel | None = None) -> str:
    """Copies parts of other models into a model and its average; returns a sentence on them.

    Of several models in `settings.start_from`, each gives parts that those before it have not.
    ConfigError if `encoder_steps` would freeze a slot encoder, or slots, that are untrained, or if
    slot diffusion gets its decoder and its slots from different models; see also
    `checkpoints.take_parts`.
    """
    source = settings.start_from
    of: dict[str, str] = {}  # which model gave a part

    def take(target: TrainableModel) -> dict[str, list[str]]:
        taken: dict[str, list[str]] = {}
        for name in settings.beginnings:
            found = checkpoints.take_parts(target, name, taken)
            taken |= found
            of.update(dict.fromkeys(found, name))
        return taken

    taken = take(model)
    if settings.freezes_encoder and taken.get("encoder") != []:
        form = "fewer slots: the new ones" if "encoder" in taken else "another form: a fresh one"
        fault = f"has {form} would stay untrained after {settings.encoder_steps} steps"
        raise ConfigError(f"training.encoder_steps: the slot encoder of {source} {fault}; add encoder_steps=none")
    of_images = getattr(model, "image_model", model)
    if isinstance(of_images, SlotDiffusion) and of_images.decoder is not None:
        remedy = "give a slot autoencoder, or slot diffusion, with encoder and decoder of the same form"
        if "decoder" not in of or of["decoder"] != of.get("encoder"):
            raise ConfigError(f"training.start_from: {source} has no decoder that knows its slots; {remedy}")
    if average is not None:
        take(average)
    for one in (model, average):
        of_one: Any = getattr(one, "image_model", one)
        if getattr(of_one, "texture", None) is not None and of.get("texture") != of.get("denoiser"):
            with torch.no_grad():  # the denoiser knows another texture, or none
                of_one.denoiser.conv_in.weight[:, -of_one.texture.width :] = 0
    parts = [f"{part} (grown: {', '.join(growth)})" if growth else part for part, growth in taken.items()]
    learning = (name for name, parameter in model.named_parameters() if parameter.requires_grad and "." in name)
    learning = (name.removeprefix("image_model.") for name in learning)
    fresh = [part for part in dict.fromkeys(name.partition(".")[0] for name in learning) if part not in taken]
    return f"starting from {source}: {', '.join(parts)}" + (f"; fresh: {', '.join(fresh)}" if fresh else "")
