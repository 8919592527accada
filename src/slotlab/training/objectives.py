"""What a model is trained to make small."""

from torch import Tensor

from slotlab.models.output import SlotOutput


def reconstruction_loss(output: SlotOutput, images: Tensor) -> Tensor:
    """Squared error summed over channels, mean over pixels and batch, of values in [-1, 1]; a scalar in float32.

    The loss of the brief that the report answers: 4 x 3 x the mean squared error of values in [0, 1].
    """
    return (2 * (output.reconstruction.float() - images.float())).square().sum(dim=1).mean()


def mask_area_penalty(output: SlotOutput) -> Tensor:
    """Sum over slots of the square root of the share of the image that the slot's mask covers; mean over the batch.

    1 where one slot has the whole image, sqrt(K) where K slots share it evenly. Reconstruction does not care how many
    slots paint a plain background, so with a small weight this decides for one, and leaves objects to theirs. Ours; a
    concave penalty of group sizes as in sparse grouping (no labels are used).
    """
    shares = output.masks.float().mean(dim=(2, 3))
    return (shares + 1e-6).sqrt().sum(dim=1).mean()
