"""Spatial broadcast decoder (Watters et al. 2019, arXiv 1901.07017), as Slot Attention uses it."""

from typing import Literal

import torch
from torch import Tensor, nn

from slotlab.errors import ConfigError
from slotlab.models.components import check_range
from slotlab.models.encoders import check_kernel
from slotlab.models.frames import RelativeFrame
from slotlab.models.position import PositionEmbedding, direction_grid

Position = Literal["add", "concatenate", "relative"]


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

    Raises:
        ConfigError: a number out of range, or sides that doubling does not join.
    """

    grid: Tensor

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
        self.shuffle = nn.PixelShuffle(shuffle)

    def forward(self, slots: Tensor, poses: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Decodes slots [B, K, D], with poses [B, K, 4] where the position is relative.

        Returns:
            Reconstruction [B, 3, H, W], masks [B, K, H, W] (softmax over K) and slot images [B, K, 3, H, W], in
            float32; colours nominally in [0, 1].
        """
        painted = self.to_rgb_and_mask(self.body(self._place(slots, poses)))
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

    def _place(self, slots: Tensor, poses: Tensor | None) -> Tensor:
        """Slots copied over the grid, each cell told where it is: [B * K, width, broadcast, broadcast]."""
        side = self.broadcast
        if isinstance(self.position, RelativeFrame):
            if poses is None:
                raise ValueError("poses: a decoder with position 'relative' needs the slots' poses [B, K, 4]")
            cells = slots[:, :, None] + self.position(poses)
            return cells.flatten(0, 1).unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, side, side)
        if self.position is not None:
            return self.position(grid)
        return torch.cat([grid, self.grid.expand(len(grid), -1, -1, -1)], dim=1)


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
