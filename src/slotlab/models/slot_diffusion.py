"""Slot diffusion: slots decoded by a denoiser of latents (Wu et al. 2023, arXiv 2305.11281)."""

from collections.abc import Generator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from slotlab.errors import ConfigError
from slotlab.models.building import (
    Positive,
    Probability,
    Resolution,
    build,
    check_arguments,
    check_slots,
    configured,
    full_precision,
    initialise,
)
from slotlab.models.latent_autoencoder import LatentAutoencoder
from slotlab.models.output import DiffusionOutput, SlotOutput
from slotlab.models.sampling import (
    Generators,
    NoiseSchedule,
    SamplingSettings,
    Step,
    check_steps,
    draw,
    draw_normal,
    guided,
    sample_steps,
)
from slotlab.models.slot_attention import Begin
from slotlab.models.slot_autoencoder import DECODERS
from slotlab.models.slot_encoder import SlotEncoder, SlotModelBase
from slotlab.models.unet import Denoiser, finest
from slotlab.progress import finish


@configured("texture")
class TextureEncoder(nn.Module):
    """The pattern of each slot, which a broadcast decoder cannot paint: averaged features of latents.

    Convolutions and ReLU, then a 1x1 convolution. The average is weighted by the slot's attention,
    so it says what there is, not where. BatchNorm spreads the averages, which hardly differ between
    slots; their variance, 1 in all, is a small part of a slot's.

    Args:
        feature_dim: channels C of the latents.
        width: width of a slot's texture.
        channels: width of the convolutions.
        layers: number of 3x3 convolutions.

    Example:
        >>> import torch
        >>> TextureEncoder(width=8)(torch.rand(2, 4, 16, 16), torch.rand(2, 5, 16, 16)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(
        self, feature_dim: Positive = 4, width: Positive = 32, channels: Positive = 64, layers: Positive = 3
    ) -> None:
        super().__init__()
        self.width = width
        found: list[nn.Module] = []
        for number in range(layers):
            found += [nn.Conv2d(channels if number else feature_dim, channels, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*found, nn.Conv2d(channels, width, 1))
        self.norm = nn.BatchNorm1d(width, affine=False)

    def forward(self, latents: Tensor, attention: Tensor) -> Tensor:
        """Texture [B, K, width] of the slots: latents are [B, C, h, w], attention [B, K, h, w]."""
        features = self.layers(latents)
        with full_precision(features):  # BatchNorm magnifies rounding
            attention = attention.float()
            weights = attention / attention.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
            averages = torch.einsum("bkhw,bchw->bkc", weights, features.float())
            return self.norm(averages.flatten(0, 1)).view_as(averages) / self.width**0.5


@configured("model")
class SlotDiffusion(SlotModelBase):
    """Encodes images into slots and decodes them by denoising latents that attend to the slots.

    The autoencoder is frozen. Its weights are part of the model's, so a checkpoint is complete.

    Args:
        resolution: side R of the images.
        encoder: `{"kind": "cnn" | "resnet", ...}` and that encoder's arguments.
        slot_attention: arguments of `SlotAttention`.
        autoencoder: arguments of `LatentAutoencoder`, for fresh weights, or a trained one.
        denoiser: arguments of `Denoiser`; `slot_dim`, `latent_channels` and `painting_channels`
            follow from the others.
        schedule: arguments of `NoiseSchedule`.
        sampling: arguments of `SamplingSettings`: how `generate` samples by default.
        slot_dropout: probability of replacing a slot by a learned empty one, in training.
        guidance_dropout: probability of replacing all slots of an image, for guidance to contrast
            them with; without, it takes the mean of an image's slots.
        mask_timestep: where cross-attention masks are read; by default a quarter of the schedule's.
        decoder: `{"kind": "broadcast", ...}` and that decoder's arguments: it paints the slots, and
            the denoiser adds what the painting lacks (predict and refine, Whang et al. 2022, arXiv
            2112.02475). It is not trained, but copied from the slot autoencoder that training
            starts from. None: the denoiser makes the whole image.
        lacking_scale: what a painting lacks is divided by this, for a variance of about 1.
        texture: arguments of `TextureEncoder`, or None. With it, slots are [B, K, D + its width]: the
            first D are of slot attention, as the decoder knows them, the rest is the texture. The
            denoiser sees each slot's texture, beside the painting, where the decoder paints that
            slot.

    Raises:
        ConfigError: an unknown kind or key, a value out of range, or parts that do not fit.
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
        decoder: Mapping[str, Any] | None = None,
        lacking_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5,
        texture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        encoder = dict(encoder or {"kind": "cnn"})
        slot_attention = dict(slot_attention or {})
        denoiser, schedule, sampling = dict(denoiser or {}), dict(schedule or {}), dict(sampling or {})
        self.encoder = SlotEncoder(resolution, encoder, slot_attention).apply(initialise)
        if not isinstance(autoencoder, LatentAutoencoder):
            spec = {"kind": LatentAutoencoder.kind, **(autoencoder or {})}
            autoencoder = build("autoencoder", {LatentAutoencoder.kind: LatentAutoencoder}, spec, resolution=resolution)
        if autoencoder.resolution != resolution:
            raise ConfigError(f"autoencoder: made for {autoencoder.resolution} pixels, the model for {resolution}")
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        channels, side, _ = self._latent_shape
        slot_dim = self.encoder.slot_attention.dim
        self.decoder: Any = None
        if decoder is not None:
            self.decoder = build("decoder", DECODERS, decoder, slot_dim=slot_dim, resolution=resolution)
            self.decoder.requires_grad_(False)
        painting_channels = 0 if decoder is None else channels
        self.texture: Any = None
        if texture is not None:
            if decoder is None:
                raise ConfigError("texture: needs a decoder, whose masks place it; leave it out, or add a decoder")
            check_arguments("texture", TextureEncoder, texture, reserved={"feature_dim"})
            self.texture = TextureEncoder(channels, **texture)
            painting_channels += self.texture.width
        follow = {"slot_dim": slot_dim, "latent_channels": channels, "painting_channels": painting_channels}
        for name, wanted in follow.items():
            if denoiser.get(name, wanted) != wanted:
                raise ConfigError(
                    f"denoiser.{name}: {denoiser[name]!r} does not fit, slot_attention.dim is {follow['slot_dim']} and "
                    f"the autoencoder gives {channels}x{side}x{side}; leave it out"
                )
        self.denoiser = Denoiser(**{**denoiser, **follow})
        if side % 2 ** (self.denoiser.levels - 1):
            raise ConfigError(
                f"resolution: latents of {side}x{side} cannot be halved {self.denoiser.levels - 1} times, as "
                f"denoiser.multipliers need; resize the images or take fewer multipliers"
            )
        self.schedule = NoiseSchedule(**schedule)
        self.sampling = SamplingSettings(**{"steps": min(SamplingSettings.steps, self.schedule.steps), **sampling})
        check_steps(self.sampling, self.schedule)
        self.slot_dropout, self.guidance_dropout = slot_dropout, guidance_dropout
        self.lacking_scale = lacking_scale
        self.empty_slot: Any = None
        if slot_dropout > 0 or guidance_dropout > 0:
            self.empty_slot = nn.Parameter(0.02 * torch.randn(1, 1, follow["slot_dim"]))
        self.mask_timestep = self.schedule.steps // 4 if mask_timestep is None else mask_timestep
        if not 0 <= self.mask_timestep < self.schedule.steps:
            raise ConfigError(f"mask_timestep: must be from 0 to {self.schedule.steps - 1}, not {mask_timestep!r}")
        self.keeps_cross_attention = False  # in training, for a loss of it
        self._parts = {"encoder": encoder, "slot_attention": slot_attention, "denoiser": denoiser, "schedule": schedule}
        if decoder is not None:
            self._parts |= {"decoder": dict(decoder), "lacking_scale": lacking_scale}
        if texture is not None:
            self._parts["texture"] = dict(texture)

    @property
    def config(self) -> dict[str, Any]:
        """Every constructor argument as JSON values, with the autoencoder's present scaling."""
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
    def slot_width(self) -> int:
        """Width of a slot, with its texture."""
        return self.encoder.slot_attention.dim + (0 if self.texture is None else self.texture.width)

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        return self.autoencoder.latent_channels, self.autoencoder.latent_size, self.autoencoder.latent_size

    @property
    def _painting_shape(self) -> tuple[int, int, int]:
        channels, height, width = self._latent_shape
        return channels + (0 if self.texture is None else self.slots), height, width

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        masks = f"cross-attention masks, of the denoiser at timestep {self.mask_timestep}, resized bilinearly, argmax"
        return {
            **self.described(masks),
            "sampler": self.sampling.sampler,
            "sampling_steps": self.sampling.steps,
            "guidance": self.sampling.guidance,
        }

    def losses(self, output: DiffusionOutput, images: Tensor) -> Tensor:
        """Loss of each image, float32 [B]: weighted squared error of the denoiser's prediction."""
        return output.loss

    def train(self, mode: bool = True) -> "SlotDiffusion":
        """Sets the mode of all parts but the frozen ones, which stay in evaluation mode."""
        super().train(mode)
        if self.decoder is not None:
            self.decoder.eval()
        self.autoencoder.eval().checks_values = not mode  # a training step does not look at values
        return self

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] of images [B, 3, R, R] in [0, 1]; they may be cached."""
        return self.autoencoder.encode(images)

    def generate(
        self,
        slots: Tensor,
        steps: int | None = None,
        sampler: str | None = None,
        generator: Generators = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Images, float32 [B, 3, R, R] in [0, 1], sampled from slots [B, K, D] of any number K.

        `steps`, `sampler` and `guidance` (see `SamplingSettings`) are the config's by default.
        `generator` is one CPU generator, or a list with one per image.

        Raises:
            ConfigError: an unknown sampler, or steps out of range.
            ValueError: slots of another width.
        """
        chosen = {"steps": steps, "sampler": sampler, "guidance": guidance}
        sampling = replace(self.sampling, **{key: value for key, value in chosen.items() if value is not None})
        return finish(self._image_steps(slots, generator, sampling, previews=False))

    def paint_steps(
        self,
        slots: Tensor,
        generator: Generators = None,
        sampling: SamplingSettings | None = None,
        previews: bool = True,
    ) -> Generator[Step, None, tuple[Tensor, Tensor]]:
        """`paint` as a generator: yields (steps done, steps, expected images) after each step."""
        images = yield from self._image_steps(slots, generator, sampling, previews)
        return images, self._resized(self.cross_attention_masks(self.latents(images), slots, generator))

    def _image_steps(
        self, slots: Tensor, generator: Generators, sampling: SamplingSettings | None, previews: bool
    ) -> Generator[Step, None, Tensor]:
        sampling = sampling or self.sampling
        with torch.no_grad():
            # the painting, and keys and values of the slots, do not depend on the timestep
            painting = self.painting(slots)
            seen, attended = self.textured(painting, slots), self.attended(slots)
            denoise = partial(self.denoiser, slots=self.denoiser.slot_context(attended), painting=seen)
            if sampling.guidance != 1:
                empty = attended.mean(dim=1, keepdim=True) if self.guidance_dropout == 0 else self.empty_slot
                context = self.denoiser.slot_context(empty.expand_as(attended))
                denoise = guided(denoise, partial(self.denoiser, slots=context, painting=seen), sampling.guidance)
        shape = len(slots), *self._latent_shape
        show: dict[str, Any] = {"show": partial(self.decode_latents, painting=painting)} if previews else {}
        latents = yield from sample_steps(denoise, shape, self.schedule, sampling, generator, slots.device, **show)
        return self.decode_latents(latents, painting)

    @torch.no_grad()
    def painting(self, slots: Tensor) -> Tensor | None:
        """Latents [B, C, h, w] of what the decoder paints of slots [B, K, D]; they may be cached.

        In a model with a texture the decoder's masks follow as channels: [B, C + K, h, w]; the
        texture itself is not needed, so slots may come without it. None if there is no decoder.
        """
        if self.decoder is None:
            return None
        image, masks = self.decoder(self.attended(slots))[:2]
        latents = self.autoencoder.encode(image.clamp(0, 1))
        if self.texture is None:
            return latents
        return torch.cat([latents, F.adaptive_avg_pool2d(masks.to(latents), self._latent_shape[1:])], dim=1)

    def attended(self, slots: Tensor) -> Tensor:
        """Slots [B, K, D] without their texture, as decoder and cross-attention take them."""
        dim = self.encoder.slot_attention.dim
        if slots.shape[-1] != dim:
            check_slots(slots, self.slot_width)
        return slots[..., :dim]

    def textured(self, painting: Tensor | None, slots: Tensor) -> Tensor | None:
        """What the denoiser sees of a painting: its latents, and each slot's texture under its mask."""
        if self.texture is None or painting is None:
            return painting
        check_slots(slots, self.slot_width)
        latents, masks = painting[:, : self._latent_shape[0]], painting[:, self._latent_shape[0] :]
        texture = slots[..., self.encoder.slot_attention.dim :].to(masks)
        return torch.cat([latents, torch.einsum("bkhw,bkc->bchw", masks, texture)], dim=1)

    @torch.no_grad()
    def check_lacking(self, images: Tensor) -> None:
        """Raises ConfigError unless what paintings of `images` lack has a root mean square in 1/3 .. 3.

        It is measured after scaling; see `LatentAutoencoder.check_scaling`.
        """
        each = [self._lacking(self.latents(one), self.painting(self.encoder(one)[0])) for one in images.split(1)]
        size = float(torch.cat(each).square().mean().sqrt())
        if not 1 / 3 <= size <= 3:
            raise ConfigError(
                f"lacking_scale: what the paintings of these images lack has a root mean square of {size:.3g} after "
                f"scaling, the noise schedule needs about 1; set lacking_scale={self.lacking_scale * size:.2g}"
            )

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, painting: Tensor | None = None) -> Tensor:
        """Images, float32 [B, 3, R, R] in [0, 1], of latents [B, C, h, w].

        With `painting` (see there) the latents are what it lacks, as the denoiser gives them.
        """
        if painting is not None:
            latents = painting[:, : latents.shape[1]] + self.lacking_scale * latents
        return self.autoencoder.decode(latents).clamp(0, 1)

    @torch.no_grad()
    def cross_attention_masks(
        self, latents: Tensor, slots: Tensor, generator: Generators = None, painting: Tensor | None = None
    ) -> Tensor:
        """Which slot the denoiser looks at where, [B, K, h', w'], sums to 1 over K.

        The mean cross-attention over all heads and layers of the largest features that attend, at
        `mask_timestep`, with noise added to `latents` [B, C, h, w]. `painting` is `painting(slots)`,
        if known.
        """
        painting = self.painting(slots) if painting is None else painting
        latents = self._lacking(latents, painting)
        timesteps = torch.full((len(latents),), self.mask_timestep, device=latents.device)
        noisy = self.schedule.add_noise(latents, draw_normal(latents, generator), timesteps)
        maps: list[Tensor] = []
        self.denoiser(noisy, timesteps, self.attended(slots), maps, self.textured(painting, slots))
        return finest(maps)

    def forward(
        self,
        images: Tensor,
        generator: Generators = None,
        latents: Tensor | None = None,
        begin: Begin | None = None,
        painting: Tensor | None = None,
    ) -> DiffusionOutput:
        """Slots and denoising of images [B, 3, R, R] in [0, 1].

        In evaluation mode also cross-attention masks, a sample and the ceiling.

        Args:
            images: [B, 3, R, R] in [0, 1].
            generator: one CPU generator, or a list with one per image: slots, timestep and noise.
            latents: `latents(images)`, if cached.
            begin: see `SlotAttention.forward`.
            painting: `painting(slots)` of the images' slots, if cached.

        Raises:
            ValueError: images, latents or painting of another shape than the model was made for.
        """
        expected = (len(images), *self._latent_shape)
        if latents is None:
            latents = self.latents(images)
        elif latents.shape != expected:
            raise ValueError(
                f"latents: expected {list(expected)}, got {list(latents.shape)}; cache them again with this autoencoder"
            )
        seen = self._segmented(images, generator, begin, latents)
        if painting is None:
            painting = self.painting(seen.slots)
        elif painting.shape != (expected := (len(images), *self._painting_shape)):
            raise ValueError(f"painting: expected {list(expected)}, got {list(painting.shape)}")
        lacking = self._lacking(latents, painting)
        timesteps = draw(len(latents), (), generator, partial(torch.randint, self.schedule.steps)).to(latents.device)
        noise = draw_normal(latents, generator)
        noisy = self.schedule.add_noise(lacking, noise, timesteps)
        slots = self.attended(seen.slots)
        slots = self._with_dropout(slots, generator) if self.training else slots
        maps: list[Tensor] | None = [] if self.training and self.keeps_cross_attention else None
        output = DiffusionOutput(
            **vars(seen),
            timesteps=timesteps,
            noise=noise,
            target=self.schedule.target_of(lacking, noise, timesteps),
            predicted=self.denoiser(noisy, timesteps, slots, maps, self.textured(painting, seen.slots)),
            weights=self.schedule.weights(timesteps),
            cross_attention=finest(maps) if maps else None,
        )
        if not self.training:
            output.cross_attention = self.cross_attention_masks(latents, seen.slots, generator, painting)
            output.masks = self._resized(output.cross_attention)
            output.reconstruction = self.generate(seen.slots, generator=generator)
            output.ceiling = self.decode_latents(latents)
        return output

    def segment(self, images: Tensor, generator: Generators = None, begin: Begin | None = None) -> SlotOutput:
        """Slots and slot-attention masks of images [B, 3, R, R] in [0, 1]; nothing is denoised.

        With a texture, images are encoded into latents too.

        The output's `reconstruction` is empty, [B, 3, 0, 0]; its `masks` are the attention masks.
        """
        return self._segmented(images, generator, begin)

    def encode(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slots [B, K, D] of images [B, 3, R, R] in [0, 1]; `generator` fixes the initial slots."""
        return self._segmented(images, generator).slots

    def _segmented(
        self, images: Tensor, generator: Generators, begin: Begin | None = None, latents: Tensor | None = None
    ) -> SlotOutput:
        if begin is not None:  # starts of slot attention have no texture
            begin = begin[0][..., : self.encoder.slot_attention.dim], begin[1]
        slots, attention = self.encoder(images, generator, begin)
        if self.texture is not None:
            maps = attention[:, -1].unflatten(2, self.encoder.grid)
            latents = self.latents(images) if latents is None else latents
            texture = self.texture(latents, F.adaptive_avg_pool2d(maps, self._latent_shape[1:]))
            slots = torch.cat([slots, texture.to(slots)], dim=2)
        return SlotOutput(
            slots=slots,
            attention=attention,
            attention_grid=self.encoder.grid,
            masks=self._resized(attention[:, -1].unflatten(2, self.encoder.grid)),
            reconstruction=attention.new_empty(images.shape[0], 3, 0, 0),
        )

    def _lacking(self, latents: Tensor, painting: Tensor | None) -> Tensor:
        """What is to be denoised: the latents, or what a painting of the slots lacks of them."""
        return latents if painting is None else (latents - painting[:, : latents.shape[1]]) / self.lacking_scale

    def _resized(self, soft: Tensor) -> Tensor:
        size = (self.resolution, self.resolution)
        return F.interpolate(soft.float(), size=size, mode="bilinear", align_corners=False)

    def _with_dropout(self, slots: Tensor, generator: Generators) -> Tensor:
        if self.empty_slot is None:
            return slots
        batch, count = slots.shape[:2]
        drawn = draw(batch, (count + 1,), generator, torch.rand).to(slots.device)
        dropped = (drawn[:, 1:] < self.slot_dropout) | (drawn[:, :1] < self.guidance_dropout)
        return torch.where(dropped[:, :, None], self.empty_slot.to(slots), slots)
