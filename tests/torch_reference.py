"""What the parity tests need of PyTorch: its imports, and weights that make every layer matter."""

import numpy as np
import pytest
import safetensors.numpy


def import_torch():
    """PyTorch, ready for `import torchvision`; skips the test where it is not installed.

    PyPI's torchvision is built for CUDA. Beside the CPU build of PyTorch its C++ operators do not
    load, and its import stumbles over two of them: declared here, they are never called.
    """
    torch = pytest.importorskip('torch')
    for name in ('nms', 'qnms'):
        if not hasattr(torch.ops.torchvision, name):
            signature = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
            torch.library.define(f'torchvision::{name}', signature)
    return torch


def randomise(module, seed=0, growth=1.0):
    """Biases and scales moved off their defaults, layers' matrices times `growth`; to `eval`."""
    torch = import_torch()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.ndim == 1:
                value += 0.1 * torch.randn(value.shape, generator=generator)
            elif 'layers' in name:
                value *= growth
    return module.eval()


def save(module, path):
    """The module's weights as a safetensors file; returns the module."""
    tensors = {name: value.numpy() for name, value in module.state_dict().items()}
    safetensors.numpy.save_file({n: np.ascontiguousarray(v) for n, v in tensors.items()}, path)
    return module


def assert_close(found, expected, tolerance=1e-4):
    """Largest absolute error within `tolerance` of the expected output's standard deviation."""
    expected = np.asarray(expected.detach())
    assert expected.shape == found.shape
    error = np.abs(np.asarray(found) - expected).max() / expected.std()
    print(f'largest error: {error:.1e} of the standard deviation')
    assert error <= tolerance
