"""Inception as FID wants it, against pytorch-fid's at full size on random weights."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_reference

from panoptic_jax.encoders import inception

torch = torch_reference.import_torch()


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """(path, pytorch-fid's network) with random weights and statistics."""
    module = pytest.importorskip('pytorch_fid.inception')
    network = module._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, channels in (('5b', 32), ('5c', 64), ('5d', 64)):
        inputs = {'5b': 192, '5c': 256, '5d': 288}[name]
        setattr(network, f'Mixed_{name}', module.FIDInceptionA(inputs, pool_features=channels))
    for name, channels in (('6b', 128), ('6c', 160), ('6d', 160), ('6e', 192)):
        setattr(network, f'Mixed_{name}', module.FIDInceptionC(768, channels_7x7=channels))
    network.Mixed_7b = module.FIDInceptionE_1(1280)
    network.Mixed_7c = module.FIDInceptionE_2(2048)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 4:  # keeps the size of activations from layer to layer
                fan_in = value[0].numel()
                value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif name.endswith('running_var'):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif name.endswith(('running_mean', 'bias')):
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            elif name.endswith('bn.weight'):
                value.copy_(0.7 + 0.6 * torch.rand(value.shape, generator=generator))
    path = tmp_path_factory.mktemp('inception') / 'inception.safetensors'
    return path, torch_reference.save(network.eval(), path)


@pytest.fixture(scope='module')
def loaded(reference):
    return inception.load(str(reference[0]))


def test_every_weight_is_loaded(loaded):
    params, sha256 = loaded
    assert len(sha256) == 64
    assert sum(value.size for value in jax.tree.leaves(params)) == 21_785_568 + 2 * 17_216


def test_features_equal_pytorch_fids(reference, loaded):
    _, network = reference
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), np.uint8)
    images[1, :, :128] //= 3
    with torch.no_grad():
        values = torch.tensor(images).permute(0, 3, 1, 2) / 255
        values = torch.nn.functional.interpolate(values, (299, 299), mode='bilinear') * 2 - 1
        network.fc = torch.nn.Identity()
        expected = network(values)
    torch_reference.assert_close(jax.jit(inception.features)(loaded[0], images), expected)


def test_large_images_are_shrunk_without_smoothing():
    image = np.random.default_rng(0).integers(0, 256, (1, 500, 480, 3), np.uint8)
    shrunk = jax.image.resize(np.float32(image), (1, 299, 299, 3), 'bilinear', antialias=False)
    expected = torch.nn.functional.interpolate(
        torch.tensor(np.float32(image)).permute(0, 3, 1, 2), (299, 299), mode='bilinear'
    )
    np.testing.assert_allclose(shrunk, expected.permute(0, 2, 3, 1), atol=1e-2)


def test_another_network_is_refused(reference, tmp_path):
    tensors = safetensors.numpy.load_file(reference[0])
    del tensors['Mixed_7c.branch_pool.bn.running_var']
    safetensors.numpy.save_file(tensors, tmp_path / 'other.safetensors')
    with pytest.raises(ValueError, match=r"lacks 'Mixed_7c\.branch_pool\.bn\.running_var'"):
        inception.load(str(tmp_path / 'other.safetensors'))


OTHERS = {
    'torchvision': ({'fc.weight': (1000, 2048), 'AuxLogits.fc.weight': (1000, 768)}, '1000'),
    'second head': ({'fc.weight': (1008, 2048), 'AuxLogits.fc.weight': (1008, 768)}, '1008'),
    'one head': ({'fc.weight': (1000, 2048)}, '1000'),
    'no head': ({}, 'no'),
    'scalar': ({'fc.weight': ()}, 'no'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_other_inceptions_are_refused(name):
    """Their convolutions have the same shapes, and would give some FID."""
    shapes, classes = OTHERS[name]
    message = f"is not FID's Inception: that has 1008 classes and one head, this has {classes} clas"
    with pytest.raises(ValueError, match=message):
        inception.require_fids('file', shapes)


def test_other_inceptions_are_refused_when_loaded(reference, tmp_path):
    tensors = safetensors.numpy.load_file(reference[0])
    tensors['fc.weight'] = tensors['fc.weight'][:1000].copy()
    safetensors.numpy.save_file(tensors, tmp_path / 'other.safetensors')
    with pytest.raises(ValueError, match='one head, this has 1000 classes, as torchvision'):
        inception.load(str(tmp_path / 'other.safetensors'))
