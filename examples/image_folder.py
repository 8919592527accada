"""Train on a folder of your own images, without labels, starting from a bundled model.

    python examples/image_folder.py photos --out runs/photos
    python examples/image_folder.py photos --steps 2 --batch-size 2 --out runs/photos

Images of any size are cut to the centred square and resized. The full recipe adds checkpoints,
validation, previews, and losses that keep the background in one slot (docs/own-images.md):

    slotlab train textured-64 start_from=textured-64 --data photos --out runs/photos-full
"""

import argparse
from pathlib import Path

import torch

import slotlab
from slotlab.data import training_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="a folder of images")
    parser.add_argument("--model", default="textured-64", help="where to start: a bundled name or a run folder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/own-images"))
    options = parser.parse_args()
    torch.manual_seed(0)

    model = slotlab.load(options.model).train()
    data = slotlab.open_data(options.images, split="train", resolution=model.resolution)
    print(data.describe())
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0004)
    batches = training_batches(data, batch_size=options.batch_size, seed=0)  # endless and shuffled

    for step in range(options.steps):
        images = next(batches)["image"]
        loss = model.losses(model(images), images).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {loss.item():.4f}")

    slotlab.save(model, options.out)
    print(f"saved: slotlab segment {options.images} --model {options.out} --out segments")


if __name__ == "__main__":
    main()
