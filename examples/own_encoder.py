"""Add an encoder: one class and one line.

    python examples/own_encoder.py --steps 20

An encoder turns pixels [B, 3, H, W] in [-1, 1] into features [B, C, h, w] and says C
(`out_channels`) and H / h (`stride`). Once it is registered, presets and `key=value` settings know
it.
"""

import argparse

import torch
from torch import Tensor, nn

import slotlab
from slotlab.models import ENCODERS


class PatchEncoder(nn.Module):
    """Non-overlapping patches and a few 1x1 layers, as a small vision transformer begins."""

    def __init__(self, channels: int = 64, patch: int = 4) -> None:
        super().__init__()
        self.out_channels = channels
        self.stride = patch
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, patch, patch), nn.GELU(), nn.Conv2d(channels, channels, 1), nn.GELU()
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, channels, H / patch, W / patch]."""
        return self.layers(images)


ENCODERS["patch"] = PatchEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)

    model = slotlab.create_model("scenes-32", **{"encoder.kind": "patch", "encoder.patch": 2})
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001)
    for step in range(options.steps):
        numbers = range(20_000 + step * options.batch_size, 20_000 + (step + 1) * options.batch_size)
        images = slotlab.render(numbers, variant="plain", resolution=32, max_objects=6).image
        output = model(images)
        loss = model.losses(output, images).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"features on a grid of {output.attention_grid}, loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
