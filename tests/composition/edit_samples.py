"""What tests of edits share: pictures to read, models of known weights, and what it is for two plans to be the same."""

import torch

from slotlab.hub import create_model

RELATIVE = {"slot_attention.frame": "relative", "decoder.position": "relative"}


def pictures(squares):
    return sorted((squares / "images").glob("*.png"))


def seeded_model(preset, **overrides):
    torch.manual_seed(0)
    return create_model(preset, **overrides).eval()


def same(plan, other):
    poses = plan.poses is None if other.poses is None else plan.poses.equal(other.poses)
    return plan.slots.equal(other.slots) and poses
