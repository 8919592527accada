"""What a model may be trained to make small beside its own losses (`model.losses`)."""

from torch import Tensor
from torch.nn import functional as F

from slotlab.models.output import SlotOutput
from slotlab.presets.config import TrainingSettings

EPSILON = 1e-6  # of the attention, before its logarithm


def with_penalties(loss: Tensor, output: SlotOutput, settings: TrainingSettings, step: int) -> Tensor:
    """The loss with what `settings` add to it at a step, each with its weight."""
    if settings.mask_penalty and step >= settings.mask_penalty_start:
        loss = loss + settings.mask_penalty * mask_area_penalty(output)
    if settings.background_penalty and step >= settings.background_penalty_start:
        loss = loss + background_weight(settings, step) * background_share(output)
    if settings.attention_loss:
        loss = loss + settings.attention_loss * attention_disagreement(output)
    return loss


def background_weight(settings: TrainingSettings, step: int) -> float:
    """What `background_share` is weighed with at a step, once its penalty has begun.

    A strong early pull unites the background while masks are soft: where they are hard the pull hardly moves them. A
    weak late one then leaves to other slots the objects that hardly stand out.
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


def background_share(output: SlotOutput) -> Tensor:
    """The share of the image that slots other than slot 0 cover, by their masks; mean over the batch.

    Reconstruction does not care how many slots paint a background; with a small weight slot 0 paints it alone. Unlike
    `mask_area_penalty` this pulls as strongly where two slots have half of the background each, and it leaves objects
    alone that one slot paints better than slot 0 would. It needs slots that can be told apart.
    """
    return (1 - output.masks[:, 0].float()).mean()


def attention_disagreement(output: SlotOutput) -> Tensor:
    """Cross-entropy of slot attention's last iteration against the decoder's masks; mean over positions and the batch.

    The masks, averaged over the cells of the attention's grid, are the target and get no gradient. Attention learns to
    cover whole objects instead of the few cells that tell most of them, and the slots' values come from all of the
    object. Distilling masks into attention is SPOT's idea (Kakogeorgiou et al. 2024, arXiv 2312.00648), there from a
    teacher's attention.
    """
    target = F.adaptive_avg_pool2d(output.masks.detach().float(), output.attention_grid).flatten(2)
    return -(target * (output.attention[:, -1].float() + EPSILON).log()).sum(dim=1).mean()
