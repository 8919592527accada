"""Slot Attention with a spatial broadcast decoder (Locatello et al. 2020)."""

from collections.abc import Generator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from slotlab.errors import ConfigError
from slotlab.models.building import (
    KernelSize,
    Positive,
    Resolution,
    build,
    check_slots,
    configured,
    full_precision,
    initialise,
)
from slotlab.models.output import SlotOutput, posterior_masks
from slotlab.models.sampling import Generators, SamplingSettings, Step
from slotlab.models.slot_attention import Begin
from slotlab.models.slot_encoder import PositionEmbedding, SlotEncoder, SlotModelBase, direction_grid

Convolution = nn.Conv2d | nn.ConvTranspose2d


class BroadcastConvolution(nn.Module):
    """A convolution of slots that are broadcast over a square grid, computed from their structure.

    The grid holds a sum over b of vector_b x f_b(row) x g_b(column), so each tap of the kernel is a
    small matrix product of the vectors instead of a convolution of the grid. It has no weights.

    Args:
        convolution: the layer to replace: a square kernel, no groups or dilation, zero padding.
        side: rows and columns n of the grid.
        profiles: [b, 2, n], the functions f_b of the row and g_b of the column.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, convolution: Convolution, side: int, profiles: Tensor) -> None:
        super().__init__()
        stride, padding = convolution.stride[0], cast(Any, convolution.padding[0])
        taps, functions = torch.eye(convolution.kernel_size[0]), profiles.flatten(0, 1)[:, None]
        if isinstance(convolution, nn.ConvTranspose2d):
            met = F.conv_transpose1d(functions, taps[None], None, stride, padding, convolution.output_padding[0])
        else:
            met = F.conv1d(functions, taps[:, None], None, stride, padding)
        rows, columns = met.unflatten(0, (-1, 2)).transpose(2, 3).unbind(1)  # [b, n', k]
        self.register_buffer("rows", rows.transpose(0, 1).flatten(1), persistent=False)
        self.register_buffer("columns", columns.contiguous(), persistent=False)

    def forward(self, convolution: Convolution, vectors: Tensor, shared: Tensor, rectify: bool) -> Tensor:
        """The convolution of the grid, then a ReLU if `rectify`: [M, out, n', n'], channels_last.

        Args:
            convolution: the layer.
            vectors: [M, b, D] for M slots; D are its first input channels.
            shared: [1, out, n', n'], the layer and its bias applied to what all slots share.
            rectify: apply a ReLU too, in place.
        """
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        by_input = convolution.weight if transposed else convolution.weight.transpose(0, 1)
        with full_precision(vectors):  # sums of few and small products
            taps = torch.einsum("mbd,dcij->mbijc", vectors, by_input[: vectors.shape[2]])
            across = torch.einsum("mbijc,bxj->mbixc", taps, self.columns).flatten(1, 2).flatten(2)
        same = shared.permute(0, 2, 3, 1).flatten(2)
        cells = torch.baddbmm(same, self.rows.expand(vectors.shape[0], -1, -1), across)
        return (cells.relu_() if rectify else cells).unflatten(2, (-1, convolution.out_channels)).permute(0, 3, 1, 2)


PIXELS_AT_ONCE = {"cpu": 2**16, "gpu": 2**22}  # of slot images; more at once is no faster


@configured("decoder")
class SpatialBroadcastDecoder(nn.Module):
    """Copies each slot over a grid, adds where each cell is, and convolves to RGB and a mask logit.

    If `broadcast` is the resolution, all layers work at full size (the form of the report). Else
    stride-2 transposed convolutions double the side until `resolution / shuffle` (Locatello et al.,
    table 6, with `broadcast` 8); the last convolution paints `shuffle` x `shuffle` pixels a cell.

    Args:
        slot_dim: width D of a slot.
        resolution: side of the images.
        broadcast: side of the grid that slots are copied to.
        channels: width of the convolutions.
        layers: stride-1 convolutions after the upsampling.
        kernel_size: side of all but the last convolution, which is 3x3; odd.
        position: "add" a learned map of the direction grid to the slot, or "concatenate" the grid.
        shuffle: pixels that one output cell paints on a side (pixel shuffle, Shi et al. 2016).
        checkpointing: recompute the layers in the backward pass: less memory, more time.

    Attributes:
        factored: compute the first convolution by `BroadcastConvolution`: equal up to rounding.
        in_parts: paint as many slots at a time as fill `PIXELS_AT_ONCE`, for less memory; a
            factored first convolution is recomputed in the backward pass, which is cheap.

    Raises:
        ConfigError: an argument out of range, or sides that doubling does not join.

    Example:
        >>> decoder = SpatialBroadcastDecoder(slot_dim=8, resolution=16)
        >>> reconstruction, masks, slot_images = decoder(torch.randn(2, 3, 8))
        >>> reconstruction.shape, masks.shape, slot_images.shape
        (torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 3, 16, 16]))
    """

    grid: Tensor
    factored: bool = True
    in_parts: bool = True

    def __init__(
        self,
        slot_dim: Positive,
        resolution: Positive,
        broadcast: Positive = 8,
        channels: Positive = 64,
        layers: Annotated[int, Field(ge=0, le=32)] = 1,
        kernel_size: KernelSize = 5,
        position: Literal["add", "concatenate"] = "add",
        shuffle: Positive = 1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        ratio, rest = divmod(resolution, broadcast * shuffle)
        if rest or ratio.bit_count() != 1:
            raise ConfigError(
                f"decoder: broadcast x shuffle = {broadcast * shuffle} does not reach the resolution {resolution} by "
                "doubling; resolution / (broadcast x shuffle) must be a power of two"
            )
        self.slot_dim = slot_dim
        self.broadcast = broadcast
        self.checkpointing = checkpointing
        width = slot_dim
        if position == "add":
            self.position = PositionEmbedding(slot_dim, broadcast, broadcast)
        else:
            self.register_buffer("grid", direction_grid(broadcast, broadcast)[None], persistent=False)
            width += 4
        body: list[nn.Module] = []
        for _ in range(ratio.bit_length() - 1):
            body += [nn.ConvTranspose2d(width, channels, kernel_size, 2, kernel_size // 2, output_padding=1), nn.ReLU()]
            width = channels
        for _ in range(layers):
            body += [nn.Conv2d(width, channels, kernel_size, 1, kernel_size // 2), nn.ReLU()]
            width = channels
        self.body = nn.Sequential(*body)
        self.to_rgb_and_mask = nn.Conv2d(width, 4 * shuffle**2, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(shuffle) if shuffle > 1 else nn.Identity()
        self.pixels = (resolution // shuffle) ** 2
        self.first = BroadcastConvolution(self._convolutions()[0], broadcast, torch.ones(1, 2, broadcast))

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slots [B, K, D] to reconstruction, masks and slot images.

        [B, 3, H, W], [B, K, H, W] and [B, K, 3, H, W], in float32; masks sum to 1 over K, colours
        are nominally in [0, 1].
        """
        check_slots(slots, self.slot_dim)
        painted = self._paint(slots.flatten(0, 1))
        # before the shuffle, of channels [4, shuffle^2], softmax and mixing take fewer passes
        layers = painted.to(slots.dtype).unflatten(0, slots.shape[:2]).unflatten(2, (4, -1))
        logits, colours = layers.split([1, 3], dim=2)
        masks = torch.softmax(logits, dim=1)
        slot_images = torch.add(colours.new_tensor(0.5), colours, alpha=0.5)
        reconstruction = ((masks * colours).sum(dim=1) + 1) / 2
        made = (reconstruction, masks, slot_images)
        reconstruction, masks, slot_images = (self.shuffle(image.flatten(-4, -3)) for image in made)
        return reconstruction, masks.squeeze(2), slot_images

    def _paint(self, slots: Tensor) -> Tensor:
        """Mask logits and colours of slots [M, D], before the shuffle: [M, 4 * shuffle^2, h, w]."""
        convolution, *others = self._convolutions()
        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        if self.factored:
            placed = self._vectors(slots)
            first = partial(self.first, convolution, shared=convolution(self._map()), rectify=bool(others))
        else:
            placed = self._place(slots)

            def first(part: Tensor) -> Tensor:
                return convolution(part).relu_() if others else convolution(part)

        def begin(part: Tensor) -> Tensor:
            return others[0](first(part)) if others else first(part)

        def end(cells: Tensor) -> Tensor:
            for layer in others[1:]:
                cells = layer(cells.relu_())
            return cells

        def paint(part: Tensor) -> Tensor:
            if self.checkpointing:
                return cast(Tensor, again(lambda part: end(begin(part)), part))
            return end(cast(Tensor, again(begin, part)) if self.factored and len(parts) > 1 else begin(part))

        parts = (placed,)
        if self.in_parts and not torch.compiler.is_compiling():
            parts = placed.split(max(1, PIXELS_AT_ONCE["cpu" if slots.is_cpu else "gpu"] // self.pixels))
        return torch.cat([paint(part) for part in parts])

    def _vectors(self, slots: Tensor) -> Tensor:
        """Slots as `BroadcastConvolution` wants them, [M, b, D]: here constant over the grid."""
        return slots[:, None]

    def _map(self) -> Tensor:
        """The part of the grid that is the same for all slots, [1, width, broadcast, broadcast]."""
        if hasattr(self, "position"):
            return self.position.map()
        return F.pad(self.grid, (0, 0, 0, 0, self._convolutions()[0].in_channels - 4, 0))

    def _place(self, slots: Tensor) -> Tensor:
        """Slots [M, D] over the grid, with where each cell is: [M, width, broadcast, broadcast]."""
        shared = self._map()
        return F.pad(slots, (0, shared.shape[1] - slots.shape[1]))[:, :, None, None] + shared

    def _convolutions(self) -> list[Convolution]:
        layers = (*self.body, self.to_rgb_and_mask)
        return [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


DECODERS: dict[str, Any] = {"broadcast": SpatialBroadcastDecoder}  # a decoder is added here


@configured("model")
class SlotAutoencoder(SlotModelBase):
    """Encodes images into slots and decodes each slot into a layer: colours and a mask.

    The masks are computed in the decoder's `forward` (`SpatialBroadcastDecoder`): a softmax over
    slots of one logit per pixel. To add a decoder, write one class and register it with one line,
    `DECODERS["mine"] = MyDecoder`. Its constructor gets `slot_dim`, `resolution` and the keys of
    the `decoder` section; its `forward(slots)` takes [B, K, D] and returns the reconstruction
    [B, 3, R, R], masks [B, K, R, R] that sum to 1 over K and slot images [B, K, 3, R, R]. Encoders
    are added to `ENCODERS` the same way.

    Args:
        resolution: side R of the images.
        encoder: `{"kind": "cnn" | "resnet", ...}` and that encoder's arguments.
        slot_attention: arguments of `SlotAttention`.
        decoder: `{"kind": "broadcast", ...}` and that decoder's arguments.
        pixel_sigma: standard deviation of a colour value in [0, 1] around its slot's colour. With
            it the output has posterior masks too, which fit objects better. No part of the loss.
        attended: weigh the decoder's masks by slot attention for the posterior masks. Better where
            attention has learned whole objects from a teacher.

    Raises:
        ConfigError: an unknown kind or key, a value out of range, or `attended` without
            `pixel_sigma`; the message names the key.

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
        attended: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {  # fingerprints of concept libraries depend on these keys
            "kind": self.kind,
            "resolution": resolution,
            "encoder": dict(encoder or {"kind": "cnn"}),
            "slot_attention": dict(slot_attention or {}),
            "decoder": dict(decoder or {"kind": "broadcast"}),
            **({} if pixel_sigma is None else {"pixel_sigma": pixel_sigma}),
            **({"attended": True} if attended else {}),
        }
        if attended and pixel_sigma is None:
            raise ConfigError("attended: is of posterior masks, which need pixel_sigma; set it, or leave attended out")
        self.pixel_sigma, self.attended = pixel_sigma, attended
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
            seen = "the pixel's colour and slot attention" if self.attended else "the pixel's colour"
            more["posterior"] = f"posterior masks, of {seen}, sigma {self.pixel_sigma}, argmax"
        return self.described("decoder masks, argmax", **more)

    @property
    def finer_masks(self) -> str:
        """Which source of masks fits objects best."""
        return "masks" if self.pixel_sigma is None else "posterior"

    def decode(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction [B, 3, R, R], masks [B, K, R, R], slot images [B, K, 3, R, R] of slots."""
        return self.decoder(slots)

    def generate(self, slots: Tensor, *, generator: Generators = None) -> Tensor:
        """Images [B, 3, R, R] in [0, 1] of any slots [B, K, D]; without chance, so `generator` is not used."""
        return self.decode(slots)[0].clamp(0, 1)

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
        output = SlotOutput(
            slots=slots,
            attention=attention,
            attention_grid=self.encoder.grid,
            masks=masks,
            reconstruction=reconstruction,
            slot_images=slot_images,
        )
        if self.pixel_sigma is not None and not self.training:
            prior = masks
            if self.attended:
                prior = masks.float() * output.attention_masks()
                prior = prior / prior.sum(dim=1, keepdim=True).clamp(min=1e-12)
            output.posterior = posterior_masks(prior, slot_images, images, self.pixel_sigma)
        return output

    def segment(self, images: Tensor, generator: Generators = None, begin: Begin | None = None) -> SlotOutput:
        """The same as `forward`, as decoding is cheap: slots, masks and reconstruction."""
        return self(images, generator, begin)
