"""What a model may be trained to make small beside its own losses (`model.losses`)."""

from torch import Tensor

from slotlab.models.output import SlotOutput


def mask_area_penalty(output: SlotOutput) -> Tensor:
    """One minus the sum of the squared shares of the image that the slots' masks cover; mean over the batch.

    0 where one slot has the whole image, 1 - 1/K where K slots share it evenly: the chance that two random pixels
    belong to different slots (Simpson's index). Reconstruction does not care how many slots paint a plain background;
    with a small weight this decides for one. Small objects hardly count, so they keep slots of their own.
    """
    shares = output.masks.float().mean(dim=(2, 3))
    return (1 - shares.square().sum(dim=1)).mean()
