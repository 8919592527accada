"""Where a pixel is: the direction grid and its embedding."""

import torch
from torch import Tensor, nn

from slotlab.models.randomness import Generators, draw

SMALLEST, LARGEST = 0.02, 2.0
REACH = 5.0


class RelativeFrame(nn.Module):
    """Coordinates of a grid as each slot sees them: shifted to the slot's position, divided by its scale.

    A pose is (x, y, width, height): position in [-1, 1] (left to right, top to bottom) and scale along each axis, the
    standard deviation of the slot's attention.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        channels: width of the embedding of relative coordinates.
    """

    grid: Tensor

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
        self.register_buffer("grid", torch.stack([x, y], dim=-1).flatten(0, 1), persistent=False)
        self.embedding = nn.Linear(2, channels)

    def forward(self, poses: Tensor) -> Tensor:
        """Embedding of the grid relative to poses [B, K, 4]: [B, K, N, channels]."""
        return self._cells(poses).flatten(2, 3)

    def rectified(self, poses: Tensor) -> Tensor:
        """ReLU of the embedding, in place."""
        return self._cells(poses).relu_().flatten(2, 3)

    def _cells(self, poses: Tensor) -> Tensor:
        """[B, K, h, w, channels]: a linear map of (x, y) is one addition of what its column and its row give."""
        position, scale = poses[:, :, None, :2], poses[:, :, None, 2:] * REACH
        across = (self.grid[: self.width, :1] - position[..., :1]) / scale[..., :1] * self.embedding.weight[:, 0]
        down = (self.grid[:: self.width, 1:] - position[..., 1:]) / scale[..., 1:] * self.embedding.weight[:, 1]
        return (down + self.embedding.bias)[:, :, :, None] + across[:, :, None]

    def profiles(self) -> Tensor:
        """[3, 2, side] of a square grid: what the embedding's three parts are in each row, and in each column."""
        ones, x, y = torch.ones(self.width), self.grid[: self.width, 0], self.grid[:: self.width, 1]
        return torch.stack([torch.stack([ones, ones]), torch.stack([ones, x]), torch.stack([y, ones])])

    def parts(self, poses: Tensor) -> Tensor:
        """The embedding as a constant and what grows with x and with y, for poses [B, 4]: [B, 3, channels]."""
        slopes = self.embedding.weight.T / (poses[:, 2:, None] * REACH)
        constant = self.embedding.bias - (slopes * poses[:, :2, None]).sum(dim=1)
        return torch.cat([constant[:, None], slopes], dim=1)

    def pose_of(self, weights: Tensor) -> Tensor:
        """Mean and standard deviation of where weights [B, K, N] (summing to 1 over N) lie: poses [B, K, 4]."""
        position = weights @ self.grid
        spread = weights @ self.grid.square() - position.square()
        scale = spread.clamp(min=SMALLEST**2).sqrt().clamp(max=LARGEST)
        return torch.cat([position, scale], dim=-1)


def random_poses(batch: int, slots: int, generator: Generators, like: Tensor) -> Tensor:
    """Poses to begin with, [batch, slots, 4]: positions uniform in [-1, 1], scales around 0.1 (Biza et al., app. A)."""
    noise = draw(batch, (slots, 4), generator).to(like)
    position = torch.erf(noise[..., :2] / 2**0.5)
    scale = (0.1 + 0.1 * noise[..., 2:]).clamp(SMALLEST, LARGEST)
    return torch.cat([position, scale], dim=-1)


def _centres(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count * 2 - 1


def direction_grid(height: int, width: int) -> Tensor:
    """Four gradients in [0, 1], float32 [4, height, width]: down, right, up, left (Locatello et al. 2020, app. E)."""
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
