"""A convolution over broadcast slots, computed from what its input is: an exact form with far less arithmetic.

The input of a spatial broadcast decoder's first convolution is v(y, x) = sum_b f_b(y) g_b(x) s_b + p(y, x): the slot
itself (f = g = 1), with a relative frame also a vector that grows with x and one that grows with y, and a map p that
all slots share. A convolution with kernel w and zero padding then gives

    sum_b sum_i R[y, b, i] sum_j C[x, b, j] (w_ij s_b)  +  (w * p)(y, x),

where R and C say which cell, if any, the tap i or j of an output row or column meets. So k^2 small matrices per slot
and two thin products replace a full convolution of every slot's grid; the shared map is convolved once.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Convolution = nn.Conv2d | nn.ConvTranspose2d


class BroadcastConvolution(nn.Module):
    """Applies a convolution to slots that are broadcast over a square grid; holds no weights of its own.

    Args:
        convolution: the layer to stand in for: a square kernel, no groups or dilation, zero padding.
        side: rows and columns n of the grid.
        profiles: [b, 2, n], the functions f_b of the row and g_b of the column.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, convolution: Convolution, side: int, profiles: Tensor) -> None:
        super().__init__()
        met = _cells_met(convolution, side)
        padded = F.pad(profiles, (0, 1))  # tap outside the grid: the cell after the last, which is 0
        self.register_buffer("rows", padded[:, 0, met].transpose(0, 1).flatten(1), persistent=False)
        self.register_buffer("columns", padded[:, 1, met], persistent=False)

    def forward(self, convolution: Convolution, vectors: Tensor, shared: Tensor, rectify: bool) -> Tensor:
        """What `convolution` makes of the grid: [M, out, n', n'], channels_last.

        Args:
            convolution: the layer, as it is now.
            vectors: s, [M, b, D] for M slots; where the layer has more than D input channels, these are the first.
            shared: w * p and the bias, [1, out, n', n']: the layer applied to the map alone, once for all slots.
            rectify: apply a ReLU too, in place.
        """
        transposed = isinstance(convolution, nn.ConvTranspose2d)
        by_input = convolution.weight if transposed else convolution.weight.transpose(0, 1)
        with torch.autocast(vectors.device.type, enabled=False):  # sums of few and small products
            taps = torch.einsum("mbd,dcij->mbijc", vectors, by_input[: vectors.shape[2]])
            across = torch.einsum("mbijc,bxj->mbixc", taps, self.columns).flatten(1, 2).flatten(2)
        same = shared.permute(0, 2, 3, 1).flatten(2)
        cells = torch.baddbmm(same, self.rows.expand(len(vectors), -1, -1), across)
        cells = cells.relu_() if rectify else cells
        return cells.unflatten(2, (-1, convolution.out_channels)).permute(0, 3, 1, 2)


def _cells_met(convolution: Convolution, side: int) -> Tensor:
    """Which of `side` cells each tap of each output row meets, int64 [n', k]; `side` where it meets none."""
    size, stride, padding = convolution.kernel_size[0], convolution.stride[0], int(convolution.padding[0])
    tap = torch.arange(size)
    if isinstance(convolution, nn.ConvTranspose2d):
        count = (side - 1) * stride - 2 * padding + size + convolution.output_padding[0]
        reach = torch.arange(count)[:, None] + padding - tap
        cell = torch.where(reach % stride == 0, reach.div(stride, rounding_mode="floor"), side)
    else:
        cell = torch.arange((side + 2 * padding - size) // stride + 1)[:, None] * stride - padding + tap
    return torch.where((cell >= 0) & (cell < side), cell, side)
