"""Train Slot Attention in plain PyTorch on rendered scenes, with the whole loop in view.

    python examples/slot_attention.py                 # 3,000 steps, some minutes of two CPU cores
    python examples/slot_attention.py --steps 5 --batch-size 2

`slotlab train scenes-32 --out runs/first` is the full recipe: it adds a loss that makes slot attention
agree with the decoder's masks, a schedule of the learning rate, checkpoints, validation, previews,
and an average of the weights.
"""

import argparse

import torch

import slotlab
from slotlab.metrics.functional import adjusted_rand_index
from slotlab.training.objectives import background_penalty, colour_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.manual_seed(0)

    model = slotlab.create_model("scenes-32")  # ResNet encoder, 7 slots, spatial broadcast decoder
    optimiser = torch.optim.Adam(model.parameters(), lr=0.002)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 100))

    for step in range(options.steps):
        numbers = range(20_000 + step * options.batch_size, 20_000 + (step + 1) * options.batch_size)
        images = slotlab.render(numbers, variant="plain", resolution=32, max_objects=6).image
        output = model(images)
        loss = model.losses(output, images).mean()  # squared error of the reconstruction
        loss = loss + 2 * colour_error(output, images)  # colours tell neighbouring objects apart
        if step >= 100:  # give the background to slot 0, strongly at first
            loss = loss + 0.01 * (1 - step / options.steps) * background_penalty(output, images)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        warmup.step()
        if step % 100 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {loss.item():.4f}")

    model.eval()
    test = slotlab.render(range(100), variant="plain", resolution=32, max_objects=6)
    with torch.no_grad():
        output = model(test.image)
    for title, predicted in output.segmentations().items():
        ari = adjusted_rand_index(predicted, test.mask).mean()
        fg_ari = adjusted_rand_index(predicted, test.mask, foreground_only=True).mean()
        print(f"{title}: ARI {ari:.3f}, FG-ARI {fg_ari:.3f} (100 scenes:plain, 3 to 6 objects, 32x32)")


if __name__ == "__main__":
    main()
