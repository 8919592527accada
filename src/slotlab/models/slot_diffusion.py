"""Slot diffusion: slots decoded by a denoiser of latents (Wu et al. 2023, arXiv 2305.11281)."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import ConfigError
from slotlab.models.building import check_arguments, initialise
from slotlab.models.latent_autoencoder import LatentAutoencoder
from slotlab.models.output import DiffusionOutput, SlotOutput
from slotlab.models.randomness import Generators
from slotlab.models.sampling import (
    Denoise,
    NoiseSchedule,
    OnClean,
    OnStep,
    SamplingSettings,
    check_sampler,
    check_steps,
    draw_normal,
    draw_timesteps,
    draw_uniform,
    guided,
    sample,
)
from slotlab.models.slot_encoder import SlotEncoder, mask_sources
from slotlab.models.unet import Denoiser, SlotContext, check_halvings, finest


class SlotDiffusion(nn.Module):
    """Takes images apart into slots and paints them again by denoising latents that attend to the slots.

    The autoencoder is frozen and its weights are part of the model's, so that a checkpoint is complete.

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
        resolution: int = 128,
        encoder: Mapping[str, Any] | None = None,
        slot_attention: Mapping[str, Any] | None = None,
        autoencoder: Mapping[str, Any] | LatentAutoencoder | None = None,
        denoiser: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
        slot_dropout: float = 0.0,
        guidance_dropout: float = 0.0,
        mask_timestep: int | None = None,
    ) -> None:
        super().__init__()
        encoder = dict(encoder or {"kind": "cnn"})
        slot_attention = dict(slot_attention or {})
        denoiser, schedule, sampling = dict(denoiser or {}), dict(schedule or {}), dict(sampling or {})
        if slot_attention.get("frame") == "relative":
            raise ConfigError(
                "slot_attention.frame: with 'relative' a slot does not hold where its object is, and the denoiser "
                "reads slots alone; use 'absolute'"
            )
        self.encoder = SlotEncoder(resolution, encoder, slot_attention).apply(initialise)
        self.autoencoder = _autoencoder(resolution, autoencoder or {})
        self.autoencoder.requires_grad_(False).eval()
        slot_dim = self.encoder.slot_attention.dim
        channels, side = self.autoencoder.latent_channels, self.autoencoder.latent_size
        check_arguments("denoiser", Denoiser, denoiser)
        _check_width("denoiser.latent_channels", denoiser, channels, f"the autoencoder gives {channels}x{side}x{side}")
        _check_width("denoiser.slot_dim", denoiser, slot_dim, f"slot_attention.dim is {slot_dim}")
        self.denoiser = Denoiser(**{**denoiser, "slot_dim": slot_dim, "latent_channels": channels})
        check_halvings("resolution: latents", side, side, self.denoiser.levels)
        check_arguments("schedule", NoiseSchedule, schedule)
        self.schedule = NoiseSchedule(**schedule)
        self.sampling = _sampling(sampling, self.schedule)
        for key, value in {"slot_dropout": slot_dropout, "guidance_dropout": guidance_dropout}.items():
            if not 0 <= value < 1:
                raise ConfigError(f"{key}: must be at least 0 and below 1, not {value!r}")
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
        """As `nn.Module.train`, but the autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def attend(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slot attention of each iteration [B, T, K, N] (softmax over K) of images [B, 3, R, R] in [0, 1]."""
        return self.encoder(images, generator).attention

    def encode(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slots [B, K, D] of images [B, 3, R, R] in [0, 1]; `generator` fixes the initial slots."""
        return self.encoder(images, generator).slots

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """The frozen autoencoder's latents [B, C, h, w], scaled, of images [B, 3, R, R] in [0, 1]; may be cached."""
        return self.autoencoder.encode(images)

    @torch.no_grad()
    def generate(
        self,
        slots: Tensor,
        steps: int | None = None,
        sampler: str | None = None,
        generator: Generators = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
        on_image: OnClean | None = None,
    ) -> Tensor:
        """Images of slots, sampled.

        Args:
            slots: [B, K, D]; K may differ from the model's.
            steps: evaluations of the denoiser; by default the config's, as `sampler` and `guidance`.
            sampler: "ddpm", "ddim" or "dpm-solver++".
            generator: one CPU generator, or a list with one per image, which alone decides that image's noise.
            guidance: scale of classifier-free guidance; 1 is none.
            on_step: told (steps done, steps) after each.
            on_image: told (steps done, steps, images as they are expected to become) after each; costs a decoding.

        Returns:
            Images, float32 [B, 3, R, R], clamped to [0, 1].

        Raises:
            ConfigError: an unknown sampler, steps out of range, or guidance for a model trained without.
            ValueError: slots of another width.
        """
        scale = self.sampling.guidance if guidance is None else guidance
        self._check_guidance(scale)
        # Keys and values of the slots do not depend on the timestep: computed here, once.
        denoise = self._denoise(self.denoiser.slot_context(slots))
        if scale != 1 and self.empty_slot is not None:
            empty = self.denoiser.slot_context(self.empty_slot.expand(*slots.shape[:2], -1))
            denoise = guided(denoise, self._denoise(empty), scale)

        def tell(done: int, total: int, clean: Tensor) -> None:
            if on_image is not None:
                on_image(done, total, self.autoencoder.decode(clean).clamp(0, 1))

        latents = sample(
            denoise,
            (len(slots), self.autoencoder.latent_channels, *(self.autoencoder.latent_size,) * 2),
            self.schedule,
            steps=self.sampling.steps if steps is None else steps,
            sampler=self.sampling.sampler if sampler is None else sampler,
            generator=generator,
            device=slots.device,
            on_step=on_step,
            on_clean=None if on_image is None else tell,
        )
        return self.autoencoder.decode(latents).clamp(0, 1)

    @torch.no_grad()
    def paint(
        self,
        slots: Tensor,
        poses: Tensor | None = None,
        generator: Generators = None,
        sampling: SamplingSettings | None = None,
        on_image: OnClean | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images [B, 3, R, R] in [0, 1] sampled from slots [B, K, D], and their cross-attention masks [B, K, R, R].

        The same call for every model with slots; `poses` is None here, `generator` decides the noise. `sampling` is by
        default the config's; `on_image` is that of `generate`.
        """
        settings = sampling or self.sampling
        images = self.generate(slots, settings.steps, settings.sampler, generator, settings.guidance, on_image=on_image)
        return images, self._resized(self.cross_attention_masks(self.latents(images), slots, generator))

    @torch.no_grad()
    def cross_attention_masks(
        self, latents: Tensor, slots: Tensor, generator: Generators = None, side: int | None = None
    ) -> Tensor:
        """Which slot the denoiser looks at where, [B, K, h', w'], sums to 1 over K.

        Read once at `mask_timestep`, with noise of its own added to `latents` [B, C, h, w]; see
        `Denoiser.cross_attention_masks` for the mean that is taken.
        """
        timesteps = torch.full((len(latents),), self.mask_timestep, device=latents.device)
        noisy = self.schedule.add_noise(latents, draw_normal(latents, generator), timesteps)
        return self.denoiser.cross_attention_masks(noisy, timesteps, slots, side)

    def forward(self, images: Tensor, generator: Generators = None, latents: Tensor | None = None) -> DiffusionOutput:
        """Slots and loss inputs of images; in evaluation mode also cross-attention masks, a sample and the ceiling.

        Args:
            images: [B, 3, R, R] in [0, 1].
            generator: one CPU generator, or a list with one per image, on which alone that image's initial slots,
                timestep and noise then depend.
            latents: what `latents(images)` gives, where it was cached.

        Raises:
            ValueError: images or latents of another shape than the model was made for.
        """
        encoded = self.encoder(images, generator)
        latents = self.latents(images) if latents is None else self._checked(latents, len(images))
        timesteps = draw_timesteps(len(latents), self.schedule.steps, latents.device, generator)
        noise = draw_normal(latents, generator)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        slots = self._with_dropout(encoded.slots, generator) if self.training else encoded.slots
        maps: dict[int, list[Tensor]] | None = {} if self.training and self.keeps_cross_attention else None
        predicted = self.denoiser(noisy, timesteps, slots, maps)
        output = DiffusionOutput(
            slots=encoded.slots,
            attention=encoded.attention,
            attention_grid=encoded.attention_grid,
            masks=self._resized(encoded.attention[:, -1].unflatten(2, encoded.attention_grid)),
            reconstruction=latents.new_empty(len(latents), 3, 0, 0),
            timesteps=timesteps,
            noise=noise,
            target=self.schedule.target_of(latents, noise, timesteps),
            predicted=predicted,
            weights=self.schedule.weights(timesteps),
            cross_attention=None if maps is None else finest(maps),
        )
        if not self.training:
            output.cross_attention = self.cross_attention_masks(latents, encoded.slots, generator)
            output.masks = self._resized(output.cross_attention)
            output.reconstruction = self.generate(encoded.slots, generator=generator)
            output.ceiling = self.autoencoder.decode(latents).clamp(0, 1)
        return output

    def segment(self, images: Tensor, generator: Generators = None) -> SlotOutput:
        """Slots and slot-attention masks of images [B, 3, R, R] in [0, 1]; nothing is denoised.

        The `reconstruction` of the output is empty, [B, 3, 0, 0], and its `masks` are the attention masks.
        """
        encoded = self.encoder(images, generator)
        return SlotOutput(
            slots=encoded.slots,
            attention=encoded.attention,
            attention_grid=encoded.attention_grid,
            masks=self._resized(encoded.attention[:, -1].unflatten(2, encoded.attention_grid)),
            reconstruction=images.new_empty(len(images), 3, 0, 0),
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
                f"latents: expected {expected}, got {list(latents.shape)}; cache them anew with this autoencoder"
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
            raise ConfigError(
                f"autoencoder: made for {spec.resolution} pixels, the model for {resolution}; give it that"
            )
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
