"""Slot diffusion: slots decoded by a denoiser of latents (Wu et al. 2023, arXiv 2305.11281)."""

from collections.abc import Generator, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import ConfigError
from slotlab.models.building import Probability, Resolution, check_arguments, configured, initialise
from slotlab.models.latent_autoencoder import LatentAutoencoder
from slotlab.models.output import DiffusionOutput, SlotOutput
from slotlab.models.randomness import Generators
from slotlab.models.sampling import (
    Denoise,
    NoiseSchedule,
    SamplingSettings,
    Step,
    check_sampler,
    check_steps,
    draw_normal,
    draw_timesteps,
    draw_uniform,
    guided,
    sample_steps,
)
from slotlab.models.slot_encoder import SlotEncoder, mask_sources
from slotlab.models.unet import Denoiser, SlotContext, finest
from slotlab.progress import finish


@configured("model")
class SlotDiffusion(nn.Module):
    """Encodes images into slots and decodes them by denoising latents that attend to the slots.

    The autoencoder is frozen. Its weights are part of the model's, so a checkpoint is complete.

    Args:
        resolution: side R of the images.
        encoder: `{"kind": "cnn" | "resnet", ...}` and that encoder's arguments.
        slot_attention: arguments of `SlotAttention`.
        autoencoder: arguments of `LatentAutoencoder`, for fresh weights, or a trained one, which is then frozen.
        denoiser: arguments of `Denoiser`; `slot_dim` and `latent_channels` follow from the other parts.
        schedule: arguments of `NoiseSchedule`.
        sampling: how `generate` samples by default: `{"sampler": ..., "steps": ..., "guidance": ...}`.
        slot_dropout: probability of replacing a slot by a learned empty one, in training.
        guidance_dropout: probability of replacing all slots of an image, in training; needed for guidance.
        mask_timestep: timestep at which cross-attention masks are read; by default a quarter of the schedule's.

    Raises:
        ConfigError: an unknown kind or key, a value out of range, or parts that do not fit each other.
    """

    kind = "slot-diffusion"
    finer_masks = "attention"  # which source of masks fits objects best

    def __init__(
        self,
        resolution: Resolution = 128,
        encoder: Mapping[str, Any] | None = None,
        slot_attention: Mapping[str, Any] | None = None,
        autoencoder: Mapping[str, Any] | LatentAutoencoder | None = None,
        denoiser: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        slot_dropout: Probability = 0.0,
        guidance_dropout: Probability = 0.0,
        mask_timestep: int | None = None,
    ) -> None:
        super().__init__()
        encoder = dict(encoder or {"kind": "cnn"})
        slot_attention = dict(slot_attention or {})
        denoiser, schedule, sampling = dict(denoiser or {}), dict(schedule or {}), dict(sampling or {})
        self.encoder = SlotEncoder(resolution, encoder, slot_attention).apply(initialise)
        self.autoencoder = _autoencoder(resolution, autoencoder or {})
        self.autoencoder.requires_grad_(False).eval()
        slot_dim = self.encoder.slot_attention.dim
        channels, side = self.autoencoder.latent_channels, self.autoencoder.latent_size
        check_arguments("denoiser", Denoiser, denoiser)
        _check_width("denoiser.latent_channels", denoiser, channels, f"the autoencoder gives {channels}x{side}x{side}")
        _check_width("denoiser.slot_dim", denoiser, slot_dim, f"slot_attention.dim is {slot_dim}")
        self.denoiser = Denoiser(**{**denoiser, "slot_dim": slot_dim, "latent_channels": channels})
        if side % 2 ** (self.denoiser.levels - 1):
            raise ConfigError(
                f"resolution: latents of {side}x{side} cannot be halved {self.denoiser.levels - 1} times, as "
                f"denoiser.multipliers need; resize the images or take fewer multipliers"
            )
        check_arguments("schedule", NoiseSchedule, schedule)
        self.schedule = NoiseSchedule(**schedule)
        self.sampling = _sampling(sampling, self.schedule)
        self.slot_dropout, self.guidance_dropout = slot_dropout, guidance_dropout
        empty = slot_dropout > 0 or guidance_dropout > 0
        self.empty_slot = nn.Parameter(0.02 * torch.randn(1, 1, slot_dim)) if empty else None
        self.mask_timestep = self.schedule.steps // 4 if mask_timestep is None else mask_timestep
        if not 0 <= self.mask_timestep < self.schedule.steps:
            raise ConfigError(f"mask_timestep: must be from 0 to {self.schedule.steps - 1}, not {mask_timestep!r}")
        self.keeps_cross_attention = False  # in training, for a loss of it; takes a tenth of the denoiser's time
        self._check_guidance(self.sampling.guidance)
        self._parts = {"encoder": encoder, "slot_attention": slot_attention, "denoiser": denoiser, "schedule": schedule}

    @property
    def config(self) -> dict[str, Any]:
        """Every constructor argument as JSON values, with the autoencoder's scaling as it is now."""
        return {
            "kind": self.kind,
            "resolution": self.resolution,
            **self._parts,
            "autoencoder": {key: value for key, value in self.autoencoder.config.items() if key != "resolution"},
            "sampling": asdict(self.sampling),
            "slot_dropout": self.slot_dropout,
            "guidance_dropout": self.guidance_dropout,
            "mask_timestep": self.mask_timestep,
        }

    @property
    def resolution(self) -> int:
        """Side of the images that the model takes."""
        return self.encoder.resolution

    @property
    def slots(self) -> int:
        """Number of slots K."""
        return self.encoder.slot_attention.slots

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        masks = f"cross-attention masks, of the denoiser at timestep {self.mask_timestep}, resized bilinearly, argmax"
        return {
            **self.encoder.describe(),
            "sampler": self.sampling.sampler,
            "sampling_steps": self.sampling.steps,
            "guidance": self.sampling.guidance,
            "mask_sources": mask_sources(masks),
        }

    def losses(self, output: DiffusionOutput, images: Tensor) -> Tensor:
        """Loss of each image, float32 [B]: the weighted squared error of the denoiser's prediction."""
        return output.loss

    def train(self, mode: bool = True) -> "SlotDiffusion":
        """Sets the mode of all parts but the autoencoder, which stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def attend(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slot attention of each iteration [B, T, K, N] (softmax over K) of images [B, 3, R, R] in [0, 1]."""
        return self.encoder(images, generator)[1]

    def encode(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slots [B, K, D] of images [B, 3, R, R] in [0, 1]; `generator` fixes the initial slots."""
        return self.encoder(images, generator)[0]

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """The frozen autoencoder's latents [B, C, h, w], scaled, of images [B, 3, R, R] in [0, 1]; may be cached."""
        return self.autoencoder.encode(images)

    def generate(
        self,
        slots: Tensor,
        steps: int | None = None,
        sampler: str | None = None,
        generator: Generators = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Images of slots, sampled.

        Args:
            slots: [B, K, D]; K may differ from the model's.
            steps: evaluations of the denoiser; by default the config's, as `sampler` and `guidance`.
            sampler: "ddpm", "ddim" or "dpm-solver++".
            generator: one CPU generator, or a list with one per image; an image's noise depends on its own alone.
            guidance: scale of classifier-free guidance; 1 means none.

        Returns:
            Images, float32 [B, 3, R, R], clamped to [0, 1].

        Raises:
            ConfigError: an unknown sampler, steps out of range, or guidance for a model trained without.
            ValueError: slots of another width.
        """
        chosen = {"steps": steps, "sampler": sampler, "guidance": guidance}
        sampling = replace(self.sampling, **{key: value for key, value in chosen.items() if value is not None})
        return self._decoded(finish(self._sample_steps(slots, generator, sampling)))

    def paint(
        self, slots: Tensor, generator: Generators = None, sampling: SamplingSettings | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [B, 3, R, R] in [0, 1] sampled from slots [B, K, D], and cross-attention masks [B, K, R, R].

        Every model with slots has this call. `generator` decides the noise; `sampling` is the config's by default.
        """
        images = self._decoded(finish(self._sample_steps(slots, generator, sampling or self.sampling)))
        return images, self._masks_of(images, slots, generator)

    def paint_steps(
        self, slots: Tensor, generator: Generators = None, sampling: SamplingSettings | None = None
    ) -> Generator[Step, None, tuple[Tensor, Tensor]]:
        """`paint` as a generator.

        Yields:
            (steps done, steps, images [B, 3, R, R] as they are expected to become) after each sampling
            step; this costs a decoding per step.
        """
        steps = self._sample_steps(slots, generator, sampling or self.sampling)
        while True:
            try:
                done, total, clean = next(steps)
            except StopIteration as end:
                images = self._decoded(end.value)
                return images, self._masks_of(images, slots, generator)
            yield done, total, self._decoded(clean)

    def _sample_steps(
        self, slots: Tensor, generator: Generators, sampling: SamplingSettings
    ) -> Generator[Step, None, Tensor]:
        self._check_guidance(sampling.guidance)
        with torch.no_grad():
            # Keys and values of the slots do not depend on the timestep: computed here, once.
            denoise = self._denoise(self.denoiser.slot_context(slots))
            if sampling.guidance != 1 and self.empty_slot is not None:
                empty = self.denoiser.slot_context(self.empty_slot.expand(*slots.shape[:2], -1))
                denoise = guided(denoise, self._denoise(empty), sampling.guidance)
        return (
            yield from sample_steps(
                denoise,
                (len(slots), self.autoencoder.latent_channels, *(self.autoencoder.latent_size,) * 2),
                self.schedule,
                steps=sampling.steps,
                sampler=sampling.sampler,
                generator=generator,
                device=slots.device,
            )
        )

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents).clamp(0, 1)

    def _masks_of(self, images: Tensor, slots: Tensor, generator: Generators) -> Tensor:
        return self._resized(self.cross_attention_masks(self.latents(images), slots, generator))

    @torch.no_grad()
    def cross_attention_masks(self, latents: Tensor, slots: Tensor, generator: Generators = None) -> Tensor:
        """Which slot the denoiser looks at where, [B, K, h', w'], sums to 1 over K.

        The mean cross-attention over all heads and layers of the largest features that attend, at
        `mask_timestep`, with noise added to `latents` [B, C, h, w].
        """
        timesteps = torch.full((len(latents),), self.mask_timestep, device=latents.device)
        noisy = self.schedule.add_noise(latents, draw_normal(latents, generator), timesteps)
        maps: list[Tensor] = []
        self.denoiser(noisy, timesteps, slots, maps)
        return finest(maps)

    def forward(self, images: Tensor, generator: Generators = None, latents: Tensor | None = None) -> DiffusionOutput:
        """Slots and denoising of images; in evaluation mode also cross-attention masks, a sample and the ceiling.

        Args:
            images: [B, 3, R, R] in [0, 1].
            generator: one CPU generator, or a list with one per image; an image's initial slots,
                timestep and noise depend on its own alone.
            latents: `latents(images)`, if cached.

        Raises:
            ValueError: images or latents of another shape than the model was made for.
        """
        seen = self.segment(images, generator)
        latents = self.latents(images) if latents is None else self._checked(latents, len(images))
        timesteps = draw_timesteps(len(latents), self.schedule.steps, latents.device, generator)
        noise = draw_normal(latents, generator)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        slots = self._with_dropout(seen.slots, generator) if self.training else seen.slots
        maps: list[Tensor] | None = [] if self.training and self.keeps_cross_attention else None
        predicted = self.denoiser(noisy, timesteps, slots, maps)
        output = DiffusionOutput(
            slots=seen.slots,
            attention=seen.attention,
            attention_grid=seen.attention_grid,
            masks=seen.masks,
            reconstruction=seen.reconstruction,
            timesteps=timesteps,
            noise=noise,
            target=self.schedule.target_of(latents, noise, timesteps),
            predicted=predicted,
            weights=self.schedule.weights(timesteps),
            cross_attention=None if maps is None else finest(maps),
        )
        if not self.training:
            output.cross_attention = self.cross_attention_masks(latents, seen.slots, generator)
            output.masks = self._resized(output.cross_attention)
            output.reconstruction = self.generate(seen.slots, generator=generator)
            output.ceiling = self._decoded(latents)
        return output

    def segment(self, images: Tensor, generator: Generators = None) -> SlotOutput:
        """Slots and slot-attention masks of images [B, 3, R, R] in [0, 1]; nothing is denoised.

        The `reconstruction` of the output is empty, [B, 3, 0, 0], and its `masks` are the attention masks.
        """
        slots, attention = self.encoder(images, generator)
        return SlotOutput(
            slots=slots,
            attention=attention,
            attention_grid=self.encoder.grid,
            masks=self._resized(attention[:, -1].unflatten(2, self.encoder.grid)),
            reconstruction=attention.new_empty(len(images), 3, 0, 0),
        )

    def _resized(self, soft: Tensor) -> Tensor:
        size = (self.resolution, self.resolution)
        return F.interpolate(soft.float(), size=size, mode="bilinear", align_corners=False)

    def _with_dropout(self, slots: Tensor, generator: Generators) -> Tensor:
        if self.empty_slot is None:
            return slots
        batch, count = slots.shape[:2]
        drawn = draw_uniform(batch, count + 1, slots.device, generator)
        dropped = (drawn[:, 1:] < self.slot_dropout) | (drawn[:, :1] < self.guidance_dropout)
        return torch.where(dropped[:, :, None], self.empty_slot.to(slots), slots)

    def _denoise(self, context: SlotContext) -> Denoise:
        return lambda latents, timesteps: self.denoiser(latents, timesteps, context)

    def _checked(self, latents: Tensor, batch: int) -> Tensor:
        expected = [batch, self.autoencoder.latent_channels, *(self.autoencoder.latent_size,) * 2]
        if list(latents.shape) != expected:
            raise ValueError(
                f"latents: expected {expected}, got {list(latents.shape)}; cache them again with this autoencoder"
            )
        return latents

    def _check_guidance(self, guidance: float) -> None:
        if guidance != 1 and self.guidance_dropout == 0:
            raise ConfigError(
                f"guidance: {guidance} needs a model trained with guidance_dropout above 0 (0.1 is usual); use 1"
            )


def _autoencoder(resolution: int, spec: Mapping[str, Any] | LatentAutoencoder) -> LatentAutoencoder:
    if isinstance(spec, LatentAutoencoder):
        if spec.resolution != resolution:
            raise ConfigError(f"autoencoder: made for {spec.resolution} pixels, the model for {resolution}")
        return spec
    arguments = dict(spec)
    kind = arguments.pop("kind", LatentAutoencoder.kind)
    if kind != LatentAutoencoder.kind:
        raise ConfigError(f"autoencoder.kind: must be {LatentAutoencoder.kind!r}, not {kind!r}")
    check_arguments("autoencoder", LatentAutoencoder, arguments, reserved={"resolution"})
    return LatentAutoencoder(resolution=resolution, **arguments)


def _check_width(key: str, denoiser: Mapping[str, Any], wanted: int, because: str) -> None:
    given = denoiser.get(key.rpartition(".")[2], wanted)
    if given != wanted:
        raise ConfigError(f"{key}: {given!r} does not fit, {because}; leave it out, or change the other")


def _sampling(given: Mapping[str, Any], schedule: NoiseSchedule) -> SamplingSettings:
    check_arguments("sampling", SamplingSettings, given)
    settings = SamplingSettings(**{"steps": min(SamplingSettings.steps, schedule.steps), **given})
    check_sampler("sampling.sampler", settings.sampler)
    check_steps("sampling.steps", settings.steps, schedule)
    return settings
