"""The one rule from PyTorch's layout of weights to linen's. NumPy alone is needed here.

`encoders/torch_layout.py` and `weights/foreign_names.py` use it for whole files.
"""

import numpy as np


def linen_kernel(weight: np.ndarray, *, flat: bool = False) -> np.ndarray:
    """A layer's weight as linen's kernel, with the output channels last.

    Args:
      weight: (out, in) of a linear layer, (out, in, h, w) of a convolution, or (out, in, length) of
        one along a line.
      flat: Whether the window and the input become one axis. A convolution whose windows do not
        overlap is then the kernel of a linear layer on whole patches.

    Returns:
      (in, out), (h, w, in, out) or (length, in, out); if flat, (h w in, out) or (length in, out).
      Arrays of fewer than two axes come back as they are.
    """
    if weight.ndim < 2:
        return weight
    window = range(2, weight.ndim)
    kernel = weight.transpose(*window, 1, 0)
    # The channels are innermost, as in the patches of `models/uvit.py`.
    return kernel.reshape(-1, kernel.shape[-1]) if flat else kernel
