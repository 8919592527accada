"""Slot Attention with a spatial broadcast decoder: the object-discovery autoencoder (Locatello et al. 2020)."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.broadcast_decoder import SpatialBroadcastDecoder
from slotlab.models.building import build, initialise
from slotlab.models.output import SlotOutput, posterior_masks
from slotlab.models.position import RelativeFrame
from slotlab.models.randomness import Generators
from slotlab.models.sampling import OnClean, SamplingSettings
from slotlab.models.slot_encoder import SlotEncoder, mask_sources

DECODERS = {"broadcast": SpatialBroadcastDecoder}


class SlotAutoencoder(nn.Module):
    """Takes images apart into slots and paints them again, one layer per slot.

    Args:
        resolution: side R of the images.
        encoder: `{"kind": "cnn" | "resnet", ...}` and that encoder's arguments.
        slot_attention: arguments of `SlotAttention`.
        decoder: `{"kind": "broadcast", ...}` and that decoder's arguments.
        pixel_sigma: standard deviation of a colour value in [0, 1] around what its slot paints; with it the output has
            the posterior masks too, and they are the finer ones. It has no part in the loss.

    Raises:
        ConfigError: an unknown kind or key, or a value out of range; the message names the key.
    """

    kind = "slot-autoencoder"

    def __init__(
        self,
        resolution: int = 128,
        encoder: Mapping[str, Any] | None = None,
        slot_attention: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        pixel_sigma: float | None = None,
    ) -> None:
        super().__init__()
        encoder = dict(encoder or {"kind": "cnn"})
        slot_attention = dict(slot_attention or {})
        decoder = dict(decoder or {"kind": "broadcast"})
        self.config: dict[str, Any] = {
            "kind": self.kind,
            "resolution": resolution,
            "encoder": encoder,
            "slot_attention": slot_attention,
            "decoder": decoder,
            **({} if pixel_sigma is None else {"pixel_sigma": pixel_sigma}),
        }
        if pixel_sigma is not None and not 0 < pixel_sigma < math.inf:
            raise ConfigError(f"model.pixel_sigma: must be above 0, not {pixel_sigma}")
        self.pixel_sigma = pixel_sigma
        self.encoder = SlotEncoder(resolution, encoder, slot_attention)
        self.decoder = build(
            "decoder", DECODERS, decoder, slot_dim=self.encoder.slot_attention.dim, resolution=resolution
        )
        if (
            isinstance(getattr(self.decoder, "position", None), RelativeFrame)
            and self.encoder.slot_attention.frame is None
        ):
            raise ConfigError("decoder.position: relative needs the poses of slots; add slot_attention.frame=relative")
        self.apply(initialise)

    @property
    def resolution(self) -> int:
        """Side of the images that the model takes."""
        return self.encoder.resolution

    @property
    def slots(self) -> int:
        """Number of slots K."""
        return self.encoder.slot_attention.slots

    def encode(self, images: Tensor, generator: Generators = None) -> Tensor:
        """Slots [B, K, D] of images [B, 3, R, R] in [0, 1]; `generator` fixes the initial slots."""
        return self.encoder(images, generator).slots

    def losses(self, output: SlotOutput, images: Tensor) -> Tensor:
        """Loss of each image, float32 [B]: squared error summed over channels, mean over pixels, of values in [-1, 1].

        The loss of the brief that the report answers: 4 x 3 x the mean squared error of values in [0, 1].
        """
        return (2 * (output.reconstruction.float() - images.float())).square().sum(dim=1).mean(dim=(1, 2))

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        sources = mask_sources("decoder masks, argmax")
        if self.pixel_sigma is not None:
            sources["posterior"] = f"posterior masks, of the pixel's colour, sigma {self.pixel_sigma}, argmax"
        return {**self.encoder.describe(), "mask_sources": sources}

    @property
    def finer_masks(self) -> str:
        """Which source of masks fits objects best."""
        return "masks" if self.pixel_sigma is None else "posterior"

    def decode(self, slots: Tensor, poses: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction [B, 3, R, R], masks [B, K, R, R], slot images [B, K, 3, R, R] of slots [B, K, D].

        `poses` [B, K, 4] (x, y in [-1, 1], and scales) are needed, and can be edited, where frames are relative.
        """
        return self.decoder(slots, poses)

    def paint(
        self,
        slots: Tensor,
        poses: Tensor | None = None,
        generator: Generators = None,
        sampling: SamplingSettings | None = None,
        on_image: OnClean | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images [B, 3, R, R], clamped to [0, 1], and masks [B, K, R, R] of slots [B, K, D], wherever they come from.

        The same call for every model with slots; nothing is sampled here, so that the other arguments are not used.
        """
        reconstruction, masks, _ = self.decode(slots, poses)
        return reconstruction.clamp(0, 1), masks

    def forward(self, images: Tensor, generator: Generators = None) -> SlotOutput:
        """All there is to see of images [B, 3, R, R] in [0, 1].

        Raises:
            ValueError: images of another shape than the model was made for.
        """
        encoded = self.encoder(images, generator)
        reconstruction, masks, slot_images = self.decoder(encoded.slots, encoded.poses)
        posterior = None
        if self.pixel_sigma is not None and not self.training:
            posterior = posterior_masks(masks, slot_images, images, self.pixel_sigma)
        return SlotOutput(
            slots=encoded.slots,
            attention=encoded.attention,
            attention_grid=encoded.attention_grid,
            masks=masks,
            reconstruction=reconstruction,
            slot_images=slot_images,
            poses=encoded.poses,
            posterior=posterior,
        )

    def segment(self, images: Tensor, generator: Generators = None) -> SlotOutput:
        """Slots and masks of images [B, 3, R, R] in [0, 1]: here the same as `forward`, as painting is cheap."""
        return self(images, generator)
