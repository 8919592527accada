"""Train a slotlab model inside Lightning Fabric: devices and precision around your own loop.

    python examples/fabric.py --steps 200 --devices 1 --precision bf16-mixed

slotlab models are `nn.Module`s, so the same lines work in a LightningModule's `training_step`.
"""

import argparse

import torch
from lightning_fabric import Fabric

import slotlab
from slotlab.data import training_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8, help="of all devices together")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args()

    fabric = Fabric(accelerator="auto", devices=options.devices, precision=options.precision)
    fabric.launch()
    fabric.seed_everything(0)
    model = slotlab.create_model("scenes-32")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001)
    module, optimiser = fabric.setup(model, optimiser)

    data = slotlab.open_data("scenes:plain", split="train", resolution=32, max_objects=6)
    batches = training_batches(
        data, batch_size=options.batch_size, seed=0, rank=fabric.global_rank, world_size=fabric.world_size
    )
    for step in range(options.steps):
        images = fabric.to_device(next(batches)["image"])
        loss = model.losses(module(images), images).mean()
        optimiser.zero_grad()
        fabric.backward(loss)
        fabric.clip_gradients(module, optimiser, max_norm=1.0)
        optimiser.step()
        if step % 50 == 0 or step == options.steps - 1:
            fabric.print(f"step {step}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
