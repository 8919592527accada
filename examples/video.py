"""Make a video model of a trained image model and train it on clips, with the loop in view.

    python examples/video.py                          # 200 steps, some minutes of one CPU core
    python examples/video.py --steps 1 --batch-size 1 --test-clips 1

Slots of a frame start from what a small transformer makes of those of the frame before.
`slotlab train moving-64 --out runs/moving` is the full recipe: more steps, longer clips, a schedule of
the learning rate, checkpoints, validation, and an average of the weights.
"""

import argparse

import torch

import slotlab
from slotlab.metrics.functional import adjusted_rand_index, slot_identity
from slotlab.models import TrackedModel, VideoModel
from slotlab.training.objectives import attention_disagreement, background_penalty, colour_error, sharing_penalty

MOVING = {"min_objects": 3, "max_objects": 6, "resolution": 64}


def score(model: TrackedModel | VideoModel, count: int) -> str:
    """FG-ARI of whole clips, and how well objects keep their slots, on the first test clips."""
    scores = []
    for number in range(count):
        frames, masks = slotlab.render_video(number, frames=12, **MOVING)
        owners = torch.cat([output.segmentation("posterior") for output in model.stream(frames)])
        whole = [one.flatten(0, 1)[None] for one in (owners, masks)]  # all frames as one tall image
        fg_ari = adjusted_rand_index(*whole, foreground_only=True)
        scores.append(torch.cat([fg_ari, *slot_identity(owners[None], masks[None])]))
    fg_ari, identity, switches = torch.stack(scores).nanmean(dim=0).tolist()
    return f"video FG-ARI {fg_ari:.3f}, identity {identity:.3f}, switches {switches:.2f} ({count} clips of 12 frames)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=2, help="clips")
    parser.add_argument("--test-clips", type=int, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)

    image_model = slotlab.load("scenes-64")
    print("frame by frame, slots matched:", score(TrackedModel(image_model), options.test_clips))

    model = VideoModel(image_model, later_iterations=1, anchor=0.2, first_passes=3).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-4)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 30))
    for step in range(options.steps):
        numbers = range(20_000 + step * options.batch_size, 20_000 + (step + 1) * options.batch_size)
        clips = torch.stack([slotlab.render_video(number, frames=6, **MOVING)[0] for number in numbers])
        output = model(clips)  # of B * T frames, clip after clip
        frames = clips.flatten(0, 1)
        loss = model.losses(output, frames).mean() + 2 * colour_error(output, frames)
        loss = loss + 1e-3 * background_penalty(output, frames) + 0.01 * sharing_penalty(output)
        loss = loss + 0.02 * attention_disagreement(output)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        warmup.step()
        if step % 10 == 0 or step == options.steps - 1:
            print(f"step {step}: loss {loss.item():.4f}")
    print("start from the frame before:", score(model, options.test_clips))


if __name__ == "__main__":
    main()
