"""Optimiser, schedules, moving average, and the speed-ups that `training.without` can leave out."""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slotlab.config import TrainingSettings
from slotlab.errors import ConfigError
from slotlab.models import FeatureAutoencoder, LatentAutoencoder, SlotAutoencoder, SlotDiffusion, TrainableModel


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> Optimizer:
    """Adam or AdamW over all trainable parameters; the slot encoder's are a separate group.

    The fused form updates all parameters in one call; it differs from the default by rounding.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is None and settings.encoder_learning_rate is not None:
        raise ConfigError("training.encoder_learning_rate: this model has no slot encoder; leave it out")
    encoding = {id(parameter) for parameter in encoder.parameters()} if encoder is not None else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rates = {True: settings.encoder_learning_rate or settings.learning_rate, False: settings.learning_rate}
    groups = []
    for of_encoder, rate in rates.items():
        parameters = [parameter for parameter in trained if (id(parameter) in encoding) == of_encoder]
        if parameters:
            groups.append({"params": parameters, "lr": rate, "peak_share": rate / settings.learning_rate})
    kind = Adam if settings.optimizer == "adam" else AdamW
    fused = None if "fused-adam" in settings.without else True
    return kind(groups, weight_decay=settings.weight_decay, fused=fused)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Learning rate of update number `step` (from 0): linear warm-up, then the schedule.

    Example:
        >>> halving = {"schedule": "exponential", "half_life": 2}
        >>> settings = TrainingSettings(learning_rate=1.0, warmup_steps=4, **halving)
        >>> [learning_rate(step, settings) for step in (0, 3, 4, 6, 8)]
        [0.25, 1.0, 1.0, 0.5, 0.25]
    """
    peak = settings.learning_rate
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return peak
    since = step - settings.warmup_steps
    if settings.schedule == "exponential":
        return peak * 0.5 ** (since / settings.half_life)
    progress = min(1.0, since / max(1, settings.steps - settings.warmup_steps))
    low = settings.final_learning_rate
    return low + (peak - low) * (1 + math.cos(math.pi * progress)) / 2


def slot_noise(step: int, settings: TrainingSettings) -> float:
    """Noise on bi-level slot starts at a step: a half cosine from 1 to 0 (Jia et al. 2023).

    Example:
        >>> settings = TrainingSettings(slot_noise_steps=100)
        >>> [round(slot_noise(step, settings), 2) for step in (0, 50, 100)]
        [1.0, 0.5, 0.0]
    """
    if step >= settings.slot_noise_steps:
        return 0.0
    return (1 + math.cos(math.pi * step / settings.slot_noise_steps)) / 2


def make_average(model: nn.Module, settings: TrainingSettings) -> AveragedModel | None:
    """Exponential moving average of the weights; None if `ema_decay` is 0."""
    if settings.ema_decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """Sets each parameter group to its share of the learning rate `value`."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["peak_share"]


def memory_format(without: Collection[str]) -> torch.memory_format:
    """The memory layout of images and convolutions."""
    return torch.contiguous_format if "channels-last" in without else torch.channels_last


def arrange(model: TrainableModel, device: torch.device, without: Collection[str]) -> TrainableModel:
    """Moves the model to `device` and applies all speed-ups but `without`."""
    of_images = getattr(model, "image_model", model)
    if isinstance(of_images, SlotAutoencoder):
        of_images.decoder.factored = "factored-convolution" not in without
        of_images.decoder.in_parts = "parts" not in without
    return model.to(device, memory_format=memory_format(without))  # type: ignore[call-overload]


def compile_parts(model: TrainableModel) -> None:
    """Compiles the parts of a model where most of the time goes."""
    of_images: Any = getattr(model, "image_model", model)
    if isinstance(model, LatentAutoencoder):
        parts: list[nn.Module] = [model.network.encoder, model.network.decoder]
    elif isinstance(model, FeatureAutoencoder):
        parts = [model.decoder]
    else:
        painter = of_images.denoiser if isinstance(of_images, SlotDiffusion) else of_images.decoder
        parts = [of_images.encoder.backbone, painter]
    for part in parts:
        part.compile()
