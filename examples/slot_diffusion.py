r"""Train slot diffusion in plain PyTorch: a denoiser that paints images from slots.

    python examples/slot_diffusion.py --out runs/my-diffusion     # 5,000 steps, an hour of one core
    python examples/slot_diffusion.py --steps 2 --batch-size 2

The autoencoder and the slot encoder begin with bundled weights. The full recipe adds checkpoints,
validation, previews, an average of the weights, a schedule of the learning rate and a loss of
cross-attention, and freezes the slots after 1,000 steps:

    slotlab train scenes-64-diffusion --out runs/diffusion start_from=scenes-64 \
        autoencoder.pretrained=scenes-64-diffusion
"""

import argparse
from pathlib import Path

import torch

import slotlab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, help="save the model to this folder")
    options = parser.parse_args()
    torch.manual_seed(0)

    model = slotlab.create_model("scenes-64-diffusion")
    model.autoencoder.load_state_dict(slotlab.load("scenes-64-diffusion").autoencoder.state_dict())  # stage 1
    model.encoder.load_state_dict(slotlab.load("scenes-64").encoder.state_dict())  # slots that know objects
    model.autoencoder.requires_grad_(False)
    optimiser = torch.optim.Adam(
        [
            {"params": model.denoiser.parameters(), "lr": 0.001},
            {"params": model.encoder.parameters(), "lr": 0.00005},
        ]
    )

    model.train()
    for step in range(options.steps):
        numbers = range(20_000 + step * options.batch_size, 20_000 + (step + 1) * options.batch_size)
        images = slotlab.render(numbers, variant="plain", resolution=64, max_objects=6).image
        output = model(images)  # noise at a random timestep, and what the denoiser makes of it
        loss = model.losses(output, images).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {loss.item():.4f}")

    model.eval()
    scenes = slotlab.render(range(4), variant="plain", resolution=64, max_objects=6)
    with torch.no_grad():
        slots = model.encode(scenes.image)
        samples, masks = model.paint(slots)
    print(f"samples {tuple(samples.shape)}, cross-attention masks {tuple(masks.shape)}")
    if options.out is not None:
        slotlab.save(model, options.out)
        print(f"saved: slotlab.load({str(options.out)!r})")


if __name__ == "__main__":
    main()
