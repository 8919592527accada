"""What tests of edits share: pictures to read, models of known weights, and what it is for two plans to be the same."""

import torch

from slotlab.checkpoints import create_model
from slotlab.composition.edits import Scene

RELATIVE = {"slot_attention.frame": "relative", "decoder.position": "relative"}


def pictures(squares):
    return sorted((squares / "images").glob("*.png"))


def seeded_model(preset, **overrides):
    torch.manual_seed(0)
    return create_model(preset, **overrides).eval()


def same(plan, other):
    poses = plan.poses is None if other.poses is None else plan.poses.equal(other.poses)
    return plan.slots.equal(other.slots) and poses


def blobs(tiny_preset, poses):
    """A real relative model whose decoder is set by hand: a slot's logit falls with the distance from its pose.

    The embedding gives x, -x, y, -y; a convolution with ReLU leaves |x| and |y|, and the mask's logit is minus their
    sum, at any place the one of the nearest pose in units of its scale.
    """
    model = seeded_model(tiny_preset, **RELATIVE, **{"decoder.broadcast": 16})
    decoder = model.decoder
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.position.embedding.weight[:4] = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
        for channel in range(4):
            decoder.body[0].weight[channel, channel, 1, 1] = 1
            decoder.to_rgb_and_mask.weight[0, channel, 1, 1] = -100
    poses = torch.tensor(poses)
    slots = torch.zeros(len(poses), 8)
    image, masks = model.paint(slots[None], poses[None])
    return model, Scene(slots, poses, image[0], masks[0].detach())
