"""Add a decoder: one class and one line.

    python examples/own_decoder.py --steps 20

A decoder turns slots [B, K, D] into a reconstruction [B, 3, R, R], masks [B, K, R, R] that sum to 1
over K, and one image per slot [B, K, 3, R, R]. Metrics, figures, report, composition and edits then
work with it.
"""

import argparse

import torch
from torch import Tensor, nn

import slotlab
from slotlab.models import DECODERS


class MLPDecoder(nn.Module):
    """An MLP that paints each pixel from its slot and its place, as in DINOSAUR (2022)."""

    def __init__(self, slot_dim: int, resolution: int, width: int = 128) -> None:
        super().__init__()
        self.resolution = resolution
        self.place = nn.Parameter(torch.randn(resolution**2, slot_dim) * 0.02)
        self.layers = nn.Sequential(
            nn.Linear(slot_dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )

    def forward(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, masks and slot images of slots [B, K, D]."""
        painted = self.layers(slots[:, :, None] + self.place)  # [B, K, R * R, 4]
        painted = painted.transpose(2, 3).unflatten(3, (self.resolution, self.resolution))
        masks = painted[:, :, 3].softmax(dim=1)
        slot_images = (painted[:, :, :3] + 1) / 2
        return (masks[:, :, None] * slot_images).sum(dim=1), masks, slot_images


DECODERS["mlp"] = MLPDecoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)

    model = slotlab.create_model("scenes-32", **{"decoder.kind": "mlp", "decoder.width": 64})
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001)
    for step in range(options.steps):
        numbers = range(20_000 + step * options.batch_size, 20_000 + (step + 1) * options.batch_size)
        images = slotlab.render(numbers, variant="plain", resolution=32, max_objects=6).image
        output = model(images)
        loss = model.losses(output, images).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"masks {tuple(output.masks.shape)}, loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
