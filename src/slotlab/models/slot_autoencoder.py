"""Slot Attention with a spatial broadcast decoder (Locatello et al. 2020)."""

from collections.abc import Generator, Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from slotlab.models.broadcast_decoder import DECODERS
from slotlab.models.building import Resolution, build, configured, initialise
from slotlab.models.output import SlotOutput, posterior_masks
from slotlab.models.sampling import Generators, SamplingSettings, Step
from slotlab.models.slot_attention import Begin
from slotlab.models.slot_encoder import SlotEncoder, SlotModelBase


@configured("model")
class SlotAutoencoder(SlotModelBase):
    """Encodes images into slots and decodes each slot into a layer: colours and a mask.

    The masks are computed in the decoder's `forward` (`broadcast_decoder.py`): a softmax over slots
    of one logit per pixel. To add a decoder, write one class and register it with one line,
    `DECODERS["mine"] = MyDecoder`. Its constructor gets `slot_dim`, `resolution` and the keys of
    the `decoder` section; its `forward(slots)` takes [B, K, D] and returns the reconstruction
    [B, 3, R, R], masks [B, K, R, R] that sum to 1 over K and slot images [B, K, 3, R, R].
    Encoders are added to `ENCODERS` the same way.

    Args:
        resolution: side R of the images.
        encoder: `{"kind": "cnn" | "resnet", ...}` and that encoder's arguments.
        slot_attention: arguments of `SlotAttention`.
        decoder: `{"kind": "broadcast", ...}` and that decoder's arguments.
        pixel_sigma: standard deviation of a colour value in [0, 1] around its slot's colour. With
            it the output has posterior masks too, which fit objects better. No part of the loss.

    Raises:
        ConfigError: an unknown kind or key, or a value out of range; the message names the key.

    Example:
        >>> import torch
        >>> model = SlotAutoencoder(resolution=16, slot_attention={"slots": 3})
        >>> output = model(torch.rand(2, 3, 16, 16))
        >>> output.slots.shape, output.masks.shape, output.reconstruction.shape
        (torch.Size([2, 3, 64]), torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16]))
    """

    kind = "slot-autoencoder"

    def __init__(
        self,
        resolution: Resolution = 128,
        encoder: Mapping[str, Any] | None = None,
        slot_attention: Mapping[str, Any] | None = None,
        decoder: Mapping[str, Any] | None = None,
        pixel_sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {  # fingerprints of concept libraries depend on these keys
            "kind": self.kind,
            "resolution": resolution,
            "encoder": dict(encoder or {"kind": "cnn"}),
            "slot_attention": dict(slot_attention or {}),
            "decoder": dict(decoder or {"kind": "broadcast"}),
            **({} if pixel_sigma is None else {"pixel_sigma": pixel_sigma}),
        }
        self.pixel_sigma = pixel_sigma
        self.encoder = SlotEncoder(resolution, self.config["encoder"], self.config["slot_attention"])
        slot_dim = self.encoder.slot_attention.dim
        self.decoder = build("decoder", DECODERS, self.config["decoder"], slot_dim=slot_dim, resolution=resolution)
        self.apply(initialise)

    def losses(self, output: SlotOutput, images: Tensor) -> Tensor:
        """Loss of each image, float32 [B]: squared error of values in [-1, 1].

        Summed over channels, mean over pixels: 4 x 3 x the mean squared error of values in [0, 1].
        """
        return (2 * (output.reconstruction.float() - images.float())).square().sum(dim=1).mean(dim=(1, 2))

    def describe(self) -> dict[str, Any]:
        """What a protocol line needs, as JSON values."""
        more = {}
        if self.pixel_sigma is not None:
            more["posterior"] = f"posterior masks, of the pixel's colour, sigma {self.pixel_sigma}, argmax"
        return self.described("decoder masks, argmax", **more)

    @property
    def finer_masks(self) -> str:
        """Which source of masks fits objects best."""
        return "masks" if self.pixel_sigma is None else "posterior"

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction [B, 3, R, R], masks [B, K, R, R], slot images [B, K, 3, R, R] of slots."""
        return self.decoder(slots)

    def paint_steps(
        self,
        slots: Tensor,
        generator: Generators = None,
        sampling: SamplingSettings | None = None,
        previews: bool = True,
    ) -> Generator[Step, None, tuple[Tensor, Tensor]]:
        """`paint` as a generator: yields (1, 1, images) once."""
        reconstruction, masks, _ = self.decode(slots)
        images = reconstruction.clamp(0, 1)
        yield 1, 1, images
        return images, masks

    def forward(self, images: Tensor, generator: Generators = None, begin: Begin | None = None) -> SlotOutput:
        """Encodes and decodes images [B, 3, R, R] in [0, 1]; ValueError for another shape."""
        slots, attention = self.encoder(images, generator, begin)
        reconstruction, masks, slot_images = self.decode(slots)
        posterior = None
        if self.pixel_sigma is not None and not self.training:
            posterior = posterior_masks(masks, slot_images, images, self.pixel_sigma)
        return SlotOutput(
            slots=slots,
            attention=attention,
            attention_grid=self.encoder.grid,
            masks=masks,
            reconstruction=reconstruction,
            slot_images=slot_images,
            posterior=posterior,
        )

    def segment(self, images: Tensor, generator: Generators = None, begin: Begin | None = None) -> SlotOutput:
        """The same as `forward`, as decoding is cheap: slots, masks and reconstruction."""
        return self(images, generator, begin)
