"""Weights to begin with, near to those of the published TensorFlow implementation, not PyTorch's defaults.

PyTorch draws convolutions with a third of the variance that keeps a signal's size, so that after five layers a slot
hardly changes the picture; training then spends its first thousands of steps growing the weights.
"""

from torch import nn


def initialise(module: nn.Module) -> None:
    """He-normal convolutions, Glorot-uniform dense layers, orthogonal recurrence, zero biases.

    For use with `nn.Module.apply`; He et al. 2015 (arXiv 1502.01852), Glorot and Bengio 2010; the published code has
    the Keras defaults, which draw convolutions by Glorot too. All convolutions are drawn as if they fed a ReLU, 1x1
    ones and the last included; of a transposed one PyTorch counts the outputs as inputs.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.ConvTranspose2d):
            module.weight.data.mul_(module.stride[0])  # only one in stride^2 of the kernel meets each pixel
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.GRUCell):
        for gate in module.weight_ih.chunk(3):
            nn.init.xavier_uniform_(gate)
        for gate in module.weight_hh.chunk(3):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(module.bias_ih)
        nn.init.zeros_(module.bias_hh)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
