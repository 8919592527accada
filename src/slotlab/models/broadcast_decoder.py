"""Spatial broadcast decoder (Watters et al. 2019, arXiv 1901.07017), as Slot Attention uses it."""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from slotlab.errors import ConfigError
from slotlab.models.building import check_range
from slotlab.models.position import PositionEmbedding, RelativeFrame, direction_grid
from slotlab.models.slot_encoder import check_kernel

Convolution = nn.Conv2d | nn.ConvTranspose2d


class BroadcastConvolution(nn.Module):
    """Applies a convolution to slots that are broadcast over a square grid; holds no weights of its own.

    Args:
        convolution: the layer to stand in for: a square kernel, no groups or dilation, zero padding.
        side: rows and columns n of the grid.
        profiles: [b, 2, n], the functions f_b of the row and g_b of the column.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, convolution: Convolution, side: int, profiles: Tensor) -> None:
        super().__init__()
        met = _cells_met(convolution, side)
        padded = F.pad(profiles, (0, 1))  # tap outside the grid: the cell after the last, which is 0
        self.register_buffer("rows", padded[:, 0, met].transpose(0, 1).flatten(1), persistent=False)
        self.register_buffer("columns", padded[:, 1, met], persistent=False)

    def forward(self, convolution: Convolution, vectors: Tensor, shared: Tensor, rectify: bool) -> Tensor:
        """What `convolution` makes of the grid: [M, out, n', n'], channels_last.

        Args:
            convolution: the layer, as it is now.
            vectors: s, [M, b, D] for M slots; where the layer has more than D input channels, these are the first.
            shared: w * p and the bias, [1, out, n', n']: the layer applied to the map alone, once for all slots.
            rectify: apply a ReLU too, in place.
        """
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        by_input = convolution.weight if transposed else convolution.weight.transpose(0, 1)
        with torch.autocast(vectors.device.type, enabled=False):  # sums of few and small products
            taps = torch.einsum("mbd,dcij->mbijc", vectors, by_input[: vectors.shape[2]])
            across = torch.einsum("mbijc,bxj->mbixc", taps, self.columns).flatten(1, 2).flatten(2)
        same = shared.permute(0, 2, 3, 1).flatten(2)
        cells = torch.baddbmm(same, self.rows.expand(len(vectors), -1, -1), across)
        cells = cells.relu_() if rectify else cells
        return cells.unflatten(2, (-1, convolution.out_channels)).permute(0, 3, 1, 2)


def _cells_met(convolution: Convolution, side: int) -> Tensor:
    """Which of `side` cells each tap of each output row meets, int64 [n', k]; `side` where it meets none."""
    size, stride, padding = convolution.kernel_size[0], convolution.stride[0], int(convolution.padding[0])
    tap = torch.arange(size)
    if isinstance(convolution, nn.ConvTranspose2d):
        count = (side - 1) * stride - 2 * padding + size + convolution.output_padding[0]
        reach = torch.arange(count)[:, None] + padding - tap
        cell = torch.where(reach % stride == 0, reach.div(stride, rounding_mode="floor"), side)
    else:
        cell = torch.arange((side + 2 * padding - size) // stride + 1)[:, None] * stride - padding + tap
    return torch.where((cell >= 0) & (cell < side), cell, side)


Position = Literal["add", "concatenate", "relative"]
PIXELS_AT_ONCE = {"cpu": 2**16, "gpu": 2**22}  # of slots' pictures; more at once is no faster


class SpatialBroadcastDecoder(nn.Module):
    """Copies each slot over a grid, adds where each cell is, and convolves to RGB and a mask logit.

    With `broadcast` equal to the resolution all layers work at full size (the form of the report); with a smaller one,
    stride-2 transposed convolutions double the side until `resolution / shuffle` is reached (the form of Locatello et
    al., table 6, with `broadcast` 8), and the last convolution paints `shuffle` x `shuffle` pixels per cell.

    Args:
        slot_dim: width D of a slot.
        resolution: side of the images.
        broadcast: side of the grid that slots are copied to.
        channels: width of the convolutions.
        layers: stride-1 convolutions after the upsampling.
        kernel_size: side of all but the last convolution, which is 3x3; odd.
        position: "add" a learned map of the four-direction grid to the slot, "concatenate" the grid to it, or add a
            map of the coordinates "relative" to the slot's pose (for slot attention with a relative frame).
        shuffle: pixels that one output cell paints on a side (pixel shuffle, Shi et al. 2016).
        checkpointing: paint every part anew for the gradient instead of keeping its layers: less memory, more time.

    Attributes:
        factored: compute the first convolution as `BroadcastConvolution` does, which is equal to rounding.
        in_parts: paint so many slots at a time as fill `PIXELS_AT_ONCE`, so that what lives only within a layer is
            small; where that makes several parts, the output of a factored first convolution is not kept for the
            gradient but made anew, which is cheap.

    Raises:
        ConfigError: a number out of range, or sides that doubling does not join.
    """

    grid: Tensor
    factored: bool = True
    in_parts: bool = True

    def __init__(
        self,
        slot_dim: int,
        resolution: int,
        broadcast: int = 8,
        channels: int = 64,
        layers: int = 1,
        kernel_size: int = 5,
        position: Position = "add",
        shuffle: int = 1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_range("decoder.broadcast", broadcast, 1, resolution)
        check_range("decoder.channels", channels, 1)
        check_range("decoder.layers", layers, 0, 32)
        check_range("decoder.shuffle", shuffle, 1, resolution)
        check_kernel("decoder.kernel_size", kernel_size)
        if position not in ("add", "concatenate", "relative"):
            raise ConfigError(f"decoder.position: must be 'add', 'concatenate' or 'relative', not {position!r}")
        doublings = doublings_between(broadcast * shuffle, resolution)
        self.broadcast = broadcast
        self.checkpointing = checkpointing
        width = slot_dim
        if position == "add":
            self.position: nn.Module | None = PositionEmbedding(slot_dim, broadcast, broadcast)
        elif position == "relative":
            self.position = RelativeFrame(broadcast, broadcast, slot_dim)
        else:
            self.position = None
            self.register_buffer("grid", direction_grid(broadcast, broadcast)[None], persistent=False)
            width += 4
        body: list[nn.Module] = []
        for _ in range(doublings):
            body += [nn.ConvTranspose2d(width, channels, kernel_size, 2, kernel_size // 2, output_padding=1), nn.ReLU()]
            width = channels
        for _ in range(layers):
            body += [nn.Conv2d(width, channels, kernel_size, 1, kernel_size // 2), nn.ReLU()]
            width = channels
        self.body = nn.Sequential(*body)
        self.to_rgb_and_mask = nn.Conv2d(width, 4 * shuffle**2, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(shuffle) if shuffle > 1 else nn.Identity()
        self.pixels = (resolution // shuffle) ** 2
        frame = self.position if isinstance(self.position, RelativeFrame) else None
        profiles = torch.ones(1, 2, broadcast) if frame is None else frame.profiles()
        self.first = BroadcastConvolution(self._convolutions()[0], broadcast, profiles)

    def forward(self, slots: Tensor, poses: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes slots [B, K, D], with poses [B, K, 4] where the position is relative.

        Returns:
            Reconstruction [B, 3, H, W], masks [B, K, H, W] (softmax over K) and slot images [B, K, 3, H, W], in
            float32; colours nominally in [0, 1].
        """
        painted = self._paint(slots.flatten(0, 1), None if poses is None else poses.flatten(0, 1))
        # Before the shuffle the channels are [4, shuffle^2]: softmax and mixing are the same there, in fewer passes.
        layers = painted.to(slots.dtype).unflatten(0, slots.shape[:2]).unflatten(2, (4, -1))
        logits, colours = layers.split([1, 3], dim=2)
        masks = torch.softmax(logits, dim=1)
        slot_images = torch.add(colours.new_tensor(0.5), colours, alpha=0.5)
        reconstruction = ((masks * colours).sum(dim=1) + 1) / 2
        masks, slot_images, reconstruction = (
            self.shuffle(image.flatten(-4, -3)) for image in (masks, slot_images, reconstruction)
        )
        return reconstruction, masks.squeeze(2), slot_images

    def _paint(self, slots: Tensor, poses: Tensor | None) -> Tensor:
        """Mask logits and colours of slots [M, D] with poses [M, 4], before the shuffle: [M, 4 * shuffle^2, h, w]."""
        in_parts = self.in_parts and not torch.compiler.is_compiling()
        limit = PIXELS_AT_ONCE["cpu" if slots.is_cpu else "gpu"]
        many = max(1, limit // self.pixels) if in_parts else len(slots)
        if self.factored:
            shared = self._convolutions()[0](self._map(slots))
            parts, first = self._vectors(slots, poses).split(many), partial(self._factored, shared)
        else:
            parts, first = self._place(slots, poses).split(many), self._plain
        cheap = self.factored and len(parts) > 1
        return torch.cat([self._paint_part(part, first, cheap) for part in parts])

    def _paint_part(self, part: Tensor, first: Callable[[Tensor], Tensor], cheap: bool) -> Tensor:
        """Applies `first` and the other convolutions; a `cheap` first one is made anew for the gradient, not kept."""
        others = self._convolutions()[1:]

        def begin(part: Tensor) -> Tensor:
            return others[0](first(part)) if others else first(part)

        def end(cells: Tensor) -> Tensor:
            for convolution in others[1:]:
                cells = convolution(cells.relu_())
            return cells

        if self.checkpointing:
            return _made_anew(lambda part: end(begin(part)), part)
        return end(_made_anew(begin, part) if cheap else begin(part))

    def _factored(self, shared: Tensor, vectors: Tensor) -> Tensor:
        """The first convolution, and its ReLU where others follow, by what slots are."""
        convolution, *others = self._convolutions()
        return self.first(convolution, vectors, shared, rectify=bool(others))

    def _plain(self, grid: Tensor) -> Tensor:
        """The same by applying the layer to slots on the grid."""
        convolution, *others = self._convolutions()
        return convolution(grid).relu_() if others else convolution(grid)

    def _vectors(self, slots: Tensor, poses: Tensor | None) -> Tensor:
        """Slots as `BroadcastConvolution` wants them: constant, or constant and what grows with x and with y."""
        if isinstance(self.position, RelativeFrame):
            return self.position.parts(_needed(poses)) + F.pad(slots[:, None], (0, 0, 0, 2))
        return slots[:, None]

    def _map(self, slots: Tensor) -> Tensor:
        """The part of the grid that is the same for all slots, [1, width, broadcast, broadcast]."""
        if isinstance(self.position, PositionEmbedding):
            return self.position.map()
        if isinstance(self.position, RelativeFrame):
            return slots.new_zeros(1, slots.shape[1], self.broadcast, self.broadcast)
        return F.pad(self.grid, (0, 0, 0, 0, slots.shape[1], 0))

    def _place(self, slots: Tensor, poses: Tensor | None) -> Tensor:
        """Slots [M, D] copied over the grid, each cell told where it is: [M, width, broadcast, broadcast]."""
        side = self.broadcast
        if isinstance(self.position, RelativeFrame):
            cells = slots[:, None] + self.position(_needed(poses)[None])[0]
            return cells.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = slots[:, :, None, None].expand(-1, -1, side, side)
        if self.position is not None:
            return self.position(grid)
        return torch.cat([grid, self.grid.expand(len(grid), -1, -1, -1)], dim=1)

    def _convolutions(self) -> list[nn.Conv2d | nn.ConvTranspose2d]:
        layers = (*self.body, self.to_rgb_and_mask)
        return [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


def _made_anew(function: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
    """`function(part)`, computed once more for the gradient as far as that needs it."""
    result = checkpoint(function, part, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, result)


def _needed(poses: Tensor | None) -> Tensor:
    if poses is None:
        raise ValueError("poses: a decoder with position 'relative' needs the slots' poses [B, K, 4]")
    return poses


def doublings_between(small: int, large: int) -> int:
    """How often `small` must be doubled to give `large`.

    Raises:
        ConfigError: if no number of doublings does.
    """
    ratio, rest = divmod(large, small)
    if rest or ratio & (ratio - 1):
        raise ConfigError(
            f"decoder: broadcast x shuffle = {small} does not reach the resolution {large} by doubling; "
            f"choose them so that resolution = broadcast x shuffle x a power of two"
        )
    return ratio.bit_length() - 1
