"""Where a pixel is: the direction grid and its embedding."""

import torch
from torch import Tensor, nn


def direction_grid(height: int, width: int) -> Tensor:
    """Four gradients in [0, 1], float32 [4, height, width]: down, right, up, left.

    After Locatello et al. 2020, appendix E.

    Example:
        >>> direction_grid(1, 3)[1].tolist()
        [[0.0, 0.5, 1.0]]
    """
    down, right = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([down, right, 1 - down, 1 - right])


class PositionEmbedding(nn.Module):
    """Adds a learned linear map of the direction grid to features [B, C, H, W]."""

    grid: Tensor

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer("grid", direction_grid(height, width)[None], persistent=False)
        self.projection = nn.Conv2d(4, channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return features + self.map()

    def map(self) -> Tensor:
        """What is added, [1, C, H, W]."""
        return self.projection(self.grid)
