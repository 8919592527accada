"""What a model may be trained to make small beside its own losses (`model.losses`)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from slotlab.config import TrainingSettings
from slotlab.models.output import DiffusionOutput, SlotOutput

EPSILON = 1e-6  # of masks and attention, before their logarithm
GROUND_SIGMA = 0.06  # how far a colour value of the background may be off, in the units of the images
PAINTING_SIGMA = 0.1  # where what slot 0 paints wrongly begins to count less, because it is an object
PAINTING_WEIGHT = 10
SMALLEST_SHARE = 1e-3  # of the image: below it, a slot's share costs in proportion


def with_penalties(loss: Tensor, output: SlotOutput, images: Tensor, settings: TrainingSettings, step: int) -> Tensor:
    """The loss with what `settings` add to it at a step, each with its weight."""
    if settings.mask_penalty and step >= settings.mask_penalty_start:
        loss = loss + settings.mask_penalty * mask_area_penalty(output)
    if settings.background_penalty and step >= settings.background_penalty_start:
        loss = loss + background_weight(settings, step) * background_penalty(output, images)
    if settings.sharing_penalty and step >= settings.sharing_penalty_start:
        loss = loss + settings.sharing_penalty * sharing_penalty(output)
    if settings.attention_loss and step >= settings.attention_loss_start:
        loss = loss + settings.attention_loss * attention_disagreement(output)
    if settings.cross_attention_loss:
        loss = loss + settings.cross_attention_loss * cross_attention_disagreement(output)
    if settings.colour_loss:
        loss = loss + settings.colour_loss * colour_error(output, images)
    return loss


def background_weight(settings: TrainingSettings, step: int) -> float:
    """What `background_penalty` is weighed with at a step, once it has begun.

    A strong early pull unites the background before slots have shared it out. A weak late one then leaves to other
    slots the objects that hardly stand out.
    """
    first, start = settings.background_penalty, settings.background_penalty_start
    last = first if settings.final_background_penalty is None else settings.final_background_penalty
    return first + (last - first) * (step - start) / max(1, settings.steps - start)


def mask_area_penalty(output: SlotOutput) -> Tensor:
    """One minus the sum of the squared shares of the image that the slots' masks cover; mean over the batch.

    0 where one slot has the whole image, 1 - 1/K where K slots share it evenly: the chance that two random pixels
    belong to different slots (Simpson's index). Reconstruction does not care how many slots paint a plain background;
    with a small weight this decides for one. Small objects hardly count, so they keep slots of their own.
    """
    shares = output.masks.float().mean(dim=(2, 3))
    return (1 - shares.square().sum(dim=1)).mean()


def background_penalty(output: SlotOutput, images: Tensor) -> Tensor:
    """What it costs that slot 0 does not paint the background, and paint it alone; mean over pixels and the batch.

    Reconstruction does not care how many slots paint a background, and slots that have shared it out by regions never
    give it back: a mask near 0 or 1 hardly has a gradient, nor has the picture of a slot under a mask of 0. So, for
    slot 0, whatever its mask is:

    - its picture p_0 is to look like the whole image x, but for the objects: e_0 / (e_0 + 2 s^2) with
      e = |p - x|^2 summed over channels, which hardly grows where an object is (Geman and McClure 1985);
    - where it paints as well as the slots together do, its mask m_0 is to be 1: -log m_0, weighed by
      exp(-max(0, e_0 - e) / 2 t^2), which has no gradient. An object is painted better by another slot and stays there.

    It needs slots that can be told apart.

    Raises:
        ValueError: the model does not paint a picture per slot.
    """
    if output.slot_images is None:
        raise ValueError("background_penalty: needs the picture of each slot")
    images = images.float()
    alone = (output.slot_images[:, 0].float() - images).square().sum(dim=1)
    together = (output.reconstruction.float() - images).square().sum(dim=1)
    as_good = torch.exp(-(alone - together).clamp(min=0) / (2 * GROUND_SIGMA**2)).detach()
    pull = as_good * -(output.masks[:, 0].float() + EPSILON).log()
    return (pull + PAINTING_WEIGHT * alone / (alone + 2 * PAINTING_SIGMA**2)).mean()


def sharing_penalty(output: SlotOutput) -> Tensor:
    """The square roots of the shares of the image that the slots but slot 0 cover, added up; mean over the batch.

    Reconstruction does not care whether one slot has an object or two that paint it alike have half of it each, which
    slots do where the regions meet that each looks after. Two halves cost sqrt(2) times what the whole costs. The root
    is steepest for the lesser half: it gives way. A slot that has an object alone keeps it, for nobody else paints it.

    It needs slots that can be told apart: slot 0 is the background's. And it is for slots that know objects: before, an
    object that no slot paints well yet is not worth what it costs, and goes to slot 0.
    """
    shares = output.masks[:, 1:].float().mean(dim=(2, 3))
    return (shares + SMALLEST_SHARE).sqrt().sum(dim=1).mean()


def attention_disagreement(output: SlotOutput) -> Tensor:
    """Cross-entropy of slot attention's last iteration against the decoder's masks; mean over positions and the batch.

    The masks, averaged over the cells of the attention's grid, are the target and get no gradient. Attention learns to
    cover whole objects instead of the few cells that tell most of them, and the slots' values come from all of the
    object. Distilling masks into attention is SPOT's idea (Kakogeorgiou et al. 2024, arXiv 2312.00648), there from a
    teacher's attention.
    """
    target = F.adaptive_avg_pool2d(output.masks.detach().float(), output.attention_grid).flatten(2)
    return -(target * (output.attention[:, -1].float() + EPSILON).log()).sum(dim=1).mean()


def cross_attention_disagreement(output: SlotOutput) -> Tensor:
    """Cross-entropy of a denoiser's cross-attention against slot attention; mean over positions and the batch.

    Slot attention of the last iteration, averaged over the cells of the cross-attention's grid, is the target and gets
    no gradient. The denoiser learns to read each place's slot there, at every timestep, so that its masks fit what
    slots were made of, and a slot that is edited changes its own object.

    Raises:
        ValueError: the output is not of slot diffusion that keeps its cross-attention.
    """
    if not isinstance(output, DiffusionOutput) or output.cross_attention is None:
        raise ValueError("cross_attention_loss: needs a denoiser's cross-attention")
    attention = output.attention[:, -1].detach().float().unflatten(2, output.attention_grid)
    height, width = output.cross_attention.shape[-2:]
    target = F.adaptive_avg_pool2d(attention, (height, width))
    return -(target * (output.cross_attention.float() + EPSILON).log()).sum(dim=1).mean()


def colour_error(output: SlotOutput, images: Tensor) -> Tensor:
    """Squared error of colour without brightness, in the units of the model's own loss; mean over the batch.

    Of values in [-1, 1], less their mean over the channels; summed over channels, mean over pixels. Most of the
    variance of a scene is of light and shade, so that reconstruction learns colours long after shapes; but it is
    by colours that neighbouring objects differ.
    """
    error = 2 * (output.reconstruction.float() - images.float())
    return (error - error.mean(dim=1, keepdim=True)).square().sum(dim=1).mean()
