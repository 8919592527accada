"""Experimental: slots that carry a pose, so an object is moved and resized by editing its slot.

    python examples/relative_frames.py --steps 2000

Trains a relative slot autoencoder on rendered scenes, then moves one object and writes both images.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

import slotlab
from slotlab.models.relative_frames import RelativeSlotAutoencoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("moved.png"))
    options = parser.parse_args()
    torch.manual_seed(0)

    model = slotlab.create_model("scenes-32", **{"model.kind": RelativeSlotAutoencoder.kind})
    assert isinstance(model, RelativeSlotAutoencoder)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001)
    for step in range(options.steps):
        numbers = range(20_000 + step * options.batch_size, 20_000 + (step + 1) * options.batch_size)
        images = slotlab.render(numbers, variant="plain", resolution=32, max_objects=6).image
        loss = model.losses(model(images), images).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"loss {loss.item():.4f}")

    model.eval()
    with torch.no_grad():
        slots = model.encode(slotlab.render(range(1), variant="plain", resolution=32, max_objects=6).image)
        x, y = slots[0, 1, -4:-2].tolist()  # the pose of slot 1, in [-1, 1]
        moved = slots.clone()
        moved[0, 1] = model.move(slots[0, 1], -x / 2, -y / 2)  # to the centre of the image
        before, after = (model.paint(one)[0][0] for one in (slots, moved))
    both = torch.cat([before, after], dim=2).permute(1, 2, 0)
    Image.fromarray((255 * both).round().byte().numpy()).save(options.out)
    print(f"{options.out}: before and after")


if __name__ == "__main__":
    main()
