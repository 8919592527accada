"""From noise to latents: the samplers of `diffusers`, by name, around any denoiser."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slotlab.errors import ConfigError, nearest
from slotlab.models.noise import NoiseSchedule
from slotlab.models.randomness import Generators

SAMPLERS = ("ddpm", "ddim", "dpm-solver++")
PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}

Denoise = Callable[[Tensor, Tensor], Tensor]
OnStep = Callable[[int, int], None]
OnClean = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class SamplingSettings:
    """How a model samples unless told otherwise.

    Attributes:
        sampler: "ddpm", "ddim" or "dpm-solver++".
        steps: evaluations of the denoiser.
        guidance: scale of classifier-free guidance; 1 is none.
    """

    sampler: str = "dpm-solver++"
    steps: int = 25
    guidance: float = 1.0


def make_scheduler(sampler: str, schedule: NoiseSchedule) -> Any:
    """The `diffusers` scheduler that agrees with `schedule`.

    "ddpm" is ancestral sampling with the smaller variance (Ho et al. 2020, algorithm 2), "dpm-solver++" the multistep
    solver of order 2 (Lu et al. 2022, arXiv 2211.01095), and "ddim" is deterministic (Song et al. 2021, eta 0): the
    solver of order 1 (there, section 5.3), as `DDIMScheduler` takes the timesteps for evenly spaced, which they are
    only where the number of steps divides theirs. None clips, which would be wrong for latents.

    Raises:
        ConfigError: an unknown sampler; the nearest is suggested.
    """
    check_sampler("sampler", sampler)
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    shared: dict[str, Any] = {
        "num_train_timesteps": schedule.steps,
        "beta_start": schedule.start,
        "beta_end": schedule.end,
        "beta_schedule": "linear" if schedule.kind == "linear" else "scaled_linear",
        "prediction_type": PREDICTION_TYPES[schedule.target],
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }
    if sampler == "ddpm":
        return DDPMScheduler(**shared, clip_sample=False)
    order = 1 if sampler == "ddim" else 2
    return DPMSolverMultistepScheduler(**shared, algorithm_type="dpmsolver++", solver_order=order)


def spaced_timesteps(steps: int, schedule: NoiseSchedule) -> list[int]:
    """The timesteps to denoise at, from the last one on ("trailing" spacing, Lin et al. 2024, table 2).

    In whole numbers: `diffusers` counts in floats, and for some numbers of steps adds a timestep of -1.
    """
    return [round(schedule.steps * (steps - number) / steps) - 1 for number in range(steps)]


@torch.no_grad()
def sample(
    denoise: Denoise,
    shape: Sequence[int],
    schedule: NoiseSchedule,
    *,
    steps: int = 25,
    sampler: str = "dpm-solver++",
    generator: Generators = None,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
    on_clean: OnClean | None = None,
) -> Tensor:
    """Latents drawn from the model.

    Args:
        denoise: latents [B, C, h, w] and timesteps [B] to the prediction; see `guided` for guidance.
        shape: (B, C, h, w).
        schedule: the one that the denoiser was trained with.
        steps: evaluations of the denoiser, from 1 to the schedule's.
        sampler: "ddpm", "ddim" or "dpm-solver++".
        generator: one CPU generator, or a list with one per image, which alone decides that image's noise.
        device: where the latents are.
        on_step: told (steps done, steps) after each.
        on_clean: told (steps done, steps, clean latents that the step's prediction implies) after each.

    Raises:
        ConfigError: an unknown sampler, or steps out of range.
        ValueError: a list of generators of another length than the batch.
    """
    scheduler = make_scheduler(sampler, schedule)
    check_steps("steps", steps, schedule)
    if isinstance(generator, Sequence) and len(generator) != shape[0]:
        raise ValueError(f"generator: {len(generator)} generators for {shape[0]} images; give one per image")
    from diffusers.utils.torch_utils import randn_tensor

    generators = list(generator) if isinstance(generator, Sequence) else generator
    device = torch.device(device)
    scheduler.set_timesteps(timesteps=spaced_timesteps(steps, schedule), device=device)
    latents = randn_tensor(tuple(shape), generator=generators, device=device) * scheduler.init_noise_sigma
    # The solvers would draw from a generator only in their stochastic form.
    options = {"generator": generators} if sampler == "ddpm" else {}
    for number, timestep in enumerate(scheduler.timesteps):
        timesteps = timestep.expand(shape[0])
        predicted = denoise(scheduler.scale_model_input(latents, timestep), timesteps)
        if on_clean is not None:
            on_clean(number + 1, steps, schedule.clean(latents, predicted.to(latents), timesteps))
        latents = scheduler.step(predicted.to(latents), timestep, latents, return_dict=False, **options)[0]
        if on_step is not None:
            on_step(number + 1, steps)
    return latents


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): unconditional + scale x the difference.

    1 is no guidance, and then the unconditional prediction is not computed.
    """
    if scale == 1:
        return conditional

    def denoise(latents: Tensor, timesteps: Tensor) -> Tensor:
        without = unconditional(latents, timesteps)
        return without + scale * (conditional(latents, timesteps) - without)

    return denoise


def check_sampler(key: str, sampler: str) -> None:
    """Raises ConfigError for an unknown sampler, suggesting the nearest."""
    if sampler not in SAMPLERS:
        raise ConfigError(f"{key}: unknown sampler {sampler!r}{nearest(str(sampler), list(SAMPLERS))}")


def check_steps(key: str, steps: int, schedule: NoiseSchedule) -> None:
    """Raises ConfigError unless `steps` is from 1 to the schedule's number."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= schedule.steps:
        raise ConfigError(
            f"{key}: must be a whole number from 1 to {schedule.steps}, the timesteps that the model was trained "
            f"with, not {steps!r}"
        )
