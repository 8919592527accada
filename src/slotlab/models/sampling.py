"""Repeatable random numbers; and from noise to latents, the samplers of `diffusers` by name."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.building import Positive, configured

Generators = torch.Generator | Sequence[torch.Generator] | None


def seeded_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by non-negative integers, e.g. (seed, step, place in the batch)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def draw(
    batch: int, shape: Sequence[int], generator: Generators, distribution: Callable[..., Any] = torch.randn
) -> Tensor:
    """Random numbers [batch, *shape] on the CPU: standard normal, or of `torch.rand` or the like.

    `generator` makes the draw repeatable: one CPU generator for the batch, or a list with one for
    each image, so that an image's numbers do not depend on the batch it is in.
    """
    if isinstance(generator, Sequence):
        return torch.stack([distribution(tuple(shape), generator=one) for one in generator])
    chosen = {} if generator is None else {"generator": generator}  # a None cannot be exported
    return distribution((batch, *shape), **chosen)


Denoise = Callable[[Tensor, Tensor], Tensor]
Step = tuple[int, int, Tensor]  # (steps done, their number, what the result is expected to become)


@configured("schedule")
class NoiseSchedule(nn.Module):
    """Variances of T timesteps and the arithmetic between latents, noise and target.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, with abar_t the product of alpha = 1 - beta up
    to t (Ho et al. 2020, arXiv 2006.11239, eq. 4) and the variances of a `diffusers` scheduler.

    Args:
        steps: number of timesteps T.
        kind: "linear" in beta, or "sqrt-linear": linear in its square root (Rombach et al. 2022).
        start: beta of the first timestep.
        end: beta of the last, at least `start`.
        target: what the denoiser predicts: the noise ("epsilon"), v = sqrt(abar) noise -
            sqrt(1 - abar) x_0 ("v", Salimans and Ho 2022, arXiv 2202.00512), or the latents ("x0").
        zero_terminal_snr: rescale so that the last timestep is pure noise (Lin et al. 2024, arXiv
            2305.08891, algorithm 1); not with target "epsilon", which then says nothing of the
            image, and not with `min_snr_gamma`, which would weigh that timestep 0.
        min_snr_gamma: limit of the signal-to-noise ratio in the loss weights (Hang et al. 2023,
            arXiv 2303.09556); 0 weighs all timesteps alike.

    Raises:
        ConfigError: a value out of range, or settings that exclude each other.

    Example:
        >>> schedule = NoiseSchedule(steps=10, target="v")
        >>> schedule.add_noise(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([9])).round(decimals=3)
        tensor([[0.9490, 0.9490]])
    """

    cumulative_alpha: Tensor

    def __init__(
        self,
        steps: Annotated[int, Field(ge=1, le=100_000)] = 1000,
        kind: Literal["linear", "sqrt-linear"] = "linear",
        start: Annotated[float, Field(gt=0, lt=1)] = 0.0015,
        end: Annotated[float, Field(gt=0, lt=1)] = 0.0195,
        target: Literal["epsilon", "v", "x0"] = "epsilon",
        zero_terminal_snr: bool = False,
        min_snr_gamma: Annotated[float, Field(ge=0)] = 0.0,
    ) -> None:
        super().__init__()
        if start > end:
            raise ConfigError(f"schedule.start, end: must hold start <= end, not {start!r} and {end!r}")
        if zero_terminal_snr and (target == "epsilon" or min_snr_gamma > 0 or steps == 1):
            raise ConfigError(
                "schedule.zero_terminal_snr: the last timestep has no signal; set target to 'v' or 'x0', "
                "min_snr_gamma to 0, which would weigh that timestep 0, and steps to 2 or more"
            )
        self.steps, self.kind, self.start, self.end = steps, kind, start, end
        self.target, self.zero_terminal_snr, self.min_snr_gamma = target, zero_terminal_snr, min_snr_gamma
        betas = make_scheduler("ddpm", self).betas
        self.register_buffer("cumulative_alpha", torch.cumprod(1 - betas, dim=0), persistent=False)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of latents x_0 [B, ...] at timesteps [B]."""
        signal, deviation = self._coefficients(timesteps, latents.ndim)
        return signal * latents + deviation * noise

    def target_of(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should answer, of the shape of `latents`."""
        if self.target == "epsilon":
            return noise
        if self.target == "x0":
            return latents
        signal, deviation = self._coefficients(timesteps, latents.ndim)
        return signal * noise - deviation * latents

    def clean(self, noisy: Tensor, predicted: Tensor, timesteps: Tensor) -> Tensor:
        """The latents x_0 that a prediction implies, in one step (Ho et al. 2020, eq. 15)."""
        if self.target == "x0":
            return predicted
        signal, deviation = self._coefficients(timesteps, noisy.ndim)
        if self.target == "v":
            return signal * noisy - deviation * predicted
        return (noisy - deviation * predicted) / signal

    def weights(self, timesteps: Tensor) -> Tensor:
        """Weight of each image's squared error, float32 [B]: 1, or with gamma min-SNR.

        That is min(SNR, gamma) divided by SNR for "epsilon", by SNR + 1 for "v" and by 1 for "x0"
        (Hang et al. 2023, section 3.4).
        """
        kept = self.cumulative_alpha[timesteps]
        if self.min_snr_gamma == 0:
            return torch.ones_like(kept)
        ratio = kept / (1 - kept)
        limited = ratio.clamp(max=self.min_snr_gamma)
        return limited if self.target == "x0" else limited / (ratio if self.target == "epsilon" else ratio + 1)

    def _coefficients(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        kept = self.cumulative_alpha[timesteps].reshape(-1, *(1,) * (ndim - 1))
        return kept.sqrt(), (1 - kept).sqrt()


def draw_normal(like: Tensor, generator: Generators = None) -> Tensor:
    """Standard normal noise like `like` [B, ...]; for `generator` see `draw`."""
    return draw(like.shape[0], like.shape[1:], generator).to(like)


Sampler = Literal["ddpm", "ddim", "dpm-solver++"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


@configured("sampling")
@dataclass(frozen=True)
class SamplingSettings:
    """How a model samples.

    Attributes:
        sampler: "ddpm", "ddim" or "dpm-solver++".
        steps: evaluations of the denoiser.
        guidance: how much further than slots alone suggest: 1 means none, 2 is usual. The denoiser
            is then evaluated twice a step: with the slots, and with empty ones in their place
            (classifier-free guidance), or, if it was trained without `guidance_dropout`, with the
            mean of an image's slots, which says nothing of the single objects (after Sadat et al.
            2024, arXiv 2407.02687, who take a random condition).
    """

    sampler: Sampler = "dpm-solver++"
    steps: Positive = 25
    guidance: float = 1.0


def make_scheduler(sampler: Sampler, schedule: NoiseSchedule) -> Any:
    """The `diffusers` scheduler of `schedule`.

    "ddpm" is ancestral sampling with the smaller variance (Ho et al. 2020, algorithm 2),
    "dpm-solver++" the multistep solver of order 2 (Lu et al. 2022, arXiv 2211.01095), and "ddim" is
    deterministic (Song et al. 2021, eta 0): the solver of order 1 (Lu et al., section 5.3), because
    `DDIMScheduler` assumes evenly spaced timesteps. None clips, which would be wrong for latents.
    """
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
    """The timesteps to denoise at, from the last one down ("trailing", Lin et al. 2024, table 2).

    In whole numbers: `diffusers` counts in floats, and for some steps adds a timestep of -1.

    Example:
        >>> spaced_timesteps(4, NoiseSchedule())
        [999, 749, 499, 249]
    """
    return [round(schedule.steps * (steps - number) / steps) - 1 for number in range(steps)]


def sample_steps(
    denoise: Denoise,
    shape: Sequence[int],
    schedule: NoiseSchedule,
    sampling: SamplingSettings | None = None,
    generator: Generators = None,
    device: torch.device | str = "cpu",
    show: Callable[[Tensor], Tensor] = lambda clean: clean,
) -> Generator[Step, None, Tensor]:
    """Samples latents step by step.

    Args:
        denoise: latents [B, C, h, w] and timesteps [B] to the prediction; `guided` adds guidance.
        shape: (B, C, h, w).
        schedule: the one that the denoiser was trained with.
        sampling: sampler and number of steps; the guidance is up to `denoise`.
        generator: one CPU generator, or a list with one per image; see `draw`.
        device: where the latents are.
        show: what to yield of the clean latents [B, C, h, w] that each prediction implies.

    Yields:
        (steps done, steps, what `show` makes of the clean latents) after each step; then the
        latents [B, C, h, w] are returned.

    Example:
        >>> from slotlab.progress import finish
        >>> zero = lambda latents, timesteps: torch.zeros_like(latents)
        >>> schedule, settings = NoiseSchedule(target="x0"), SamplingSettings(steps=2)
        >>> finish(sample_steps(zero, (1, 3, 4, 4), schedule, settings)).abs().max().item()
        0.0
    """
    sampling = sampling or SamplingSettings()
    check_steps(sampling, schedule)
    if isinstance(generator, Sequence) and len(generator) != shape[0]:
        raise ValueError(f"generator: {len(generator)} generators for {shape[0]} images; give one per image")
    scheduler = make_scheduler(sampling.sampler, schedule)
    scheduler.set_timesteps(timesteps=spaced_timesteps(sampling.steps, schedule), device=device)
    latents = draw(shape[0], shape[1:], generator).to(device) * scheduler.init_noise_sigma
    options: dict[str, Any] = {}  # the solvers would draw in their stochastic form only
    if sampling.sampler == "ddpm":
        options["generator"] = list(generator) if isinstance(generator, Sequence) else generator
    for number, timestep in enumerate(scheduler.timesteps):
        timesteps = timestep.expand(shape[0])
        with torch.no_grad():
            predicted = denoise(scheduler.scale_model_input(latents, timestep), timesteps).to(latents)
            clean = schedule.clean(latents, predicted, timesteps)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False, **options)[0]
        yield number + 1, sampling.steps, show(clean)
    return latents


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598)."""

    def denoise(latents: Tensor, timesteps: Tensor) -> Tensor:
        without = unconditional(latents, timesteps)
        return without + scale * (conditional(latents, timesteps) - without)

    return denoise


def check_steps(sampling: SamplingSettings, schedule: NoiseSchedule) -> None:
    """Raises ConfigError if `sampling` has more steps than the schedule."""
    if sampling.steps > schedule.steps:
        raise ConfigError(
            f"sampling.steps: must be at most {schedule.steps}, the timesteps that the model was trained with, "
            f"not {sampling.steps}"
        )
