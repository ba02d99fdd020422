"""Weights inside a checkpoint: which part is taken, and what becomes of wrappers' prefixes."""

import logging

import pytest

from panoptic_jax.weights import torch_contents


class Tensor:
    """What is told of a tensor by looking at it."""

    def __init__(self, dtype='torch.float32', shape=(2,)):
        self.dtype, self.shape, self.is_meta = dtype, shape, False


def weights(*prefixes):
    names = [f'{prefix}{name}' for prefix in prefixes for name in ('norm.bias', 'norm.weight')]
    return {name: Tensor() for name in names}


PLAIN, AVERAGED = weights(''), weights('')
OPTIMIZER = {'state': {0: {'exp_avg': Tensor()}}, 'param_groups': [{'lr': 0.1}]}

CHECKPOINTS = {
    'plain': (PLAIN, PLAIN, ''),
    'U-ViT': (
        {'nnet': PLAIN, 'nnet_ema': AVERAGED, 'optimizer': OPTIMIZER, 'step': 7},
        AVERAGED,
        'nnet_ema',
    ),
    'DiT': ({'model': PLAIN, 'ema': AVERAGED, 'opt': OPTIMIZER, 'args': object()}, AVERAGED, 'ema'),
    'timm': ({'state_dict': PLAIN, 'state_dict_ema': AVERAGED}, AVERAGED, 'state_dict_ema'),
    'one': ({'state_dict': PLAIN, 'epoch': 3, 'optimizer': OPTIMIZER}, PLAIN, 'state_dict'),
    'generators': ({'model': PLAIN, 'rng': {'torch': Tensor('torch.uint8')}}, PLAIN, 'model'),
    'scores': ({'model': PLAIN, 'best': {'fid': Tensor(shape=())}}, PLAIN, 'model'),
    'nested': ({'ema': {'decay': 0.9, 'shadow': AVERAGED}, 'model': PLAIN}, AVERAGED, 'ema/shadow'),
}


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_averaged_weights_come_first(name, caplog):
    content, expected, part = CHECKPOINTS[name]
    with caplog.at_level(logging.INFO, logger='absl'):
        assert torch_contents.state_dict(content, 'a.pth') == (expected, part)
    assert caplog.text.count('Took') == (name != 'plain')
    if part:
        assert f'Took {part} of a.pth, and left out ' in caplog.text


@pytest.mark.parametrize(
    'prefix',
    ['module.', 'model.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'ema.', 'nnet.',
     'nnet_ema.', 'model.module.', 'net.', 'ema_model.module.'],
)  # fmt: skip
def test_prefixes_of_all_names_are_left_out(prefix, caplog):
    with caplog.at_level(logging.INFO, logger='absl'):
        found, _ = torch_contents.state_dict(weights(prefix), 'a.pth')
    assert found.keys() == PLAIN.keys()
    assert f'Left out the prefix {prefix!r} of all names in a.pth' in caplog.text


def test_prefixes_of_some_names_are_part_of_them():
    content = weights('module.', '')
    assert torch_contents.state_dict(content, 'a.pth') == (content, '')


@pytest.mark.parametrize(
    ('averaged', 'plain'),
    [('nnet_ema.', 'nnet.'), ('model_ema.', 'model.'), ('ema_model.', 'online_model.')],
)
def test_of_two_copies_side_by_side_the_averaged_one_is_taken(averaged, plain, caplog):
    content = weights(plain, averaged)
    with caplog.at_level(logging.INFO, logger='absl'):
        found, _ = torch_contents.state_dict(content, 'a.pth')
    assert found == {name: content[averaged + name] for name in PLAIN}
    assert f'Took the weights {averaged}* of a.pth, and left out {plain}*' in caplog.text


REFUSED = {
    'two': ({'first': PLAIN, 'second': AVERAGED}, r'which of first, second is meant.*\[.first.\]'),
    'two averaged': ({'ema': PLAIN, 'ema_slow': AVERAGED}, 'which of ema, ema_slow is meant'),
    'list': ([Tensor()], 'holds no weights by name, but a list'),
    'empty': ({}, 'holds no weights by name, but a dict'),
    'no tensors': ({'step': 3, 'lr': 0.1}, 'holds step, lr and no weights by name'),
    'optimiser': (OPTIMIZER, 'holds state, param_groups and no weights by name'),
    'stranger': (torch_contents.Stranger(), 'holds no weights by name, but a Stranger'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_no_state_dict_is_refused(name):
    content, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        torch_contents.state_dict(content, 'a.pth')


def test_what_contains_itself_is_no_trap():
    content = {'step': 3}
    content['self'] = content
    with pytest.raises(ValueError, match='holds step, self and no weights'):
        torch_contents.state_dict(content, 'a.pth')
