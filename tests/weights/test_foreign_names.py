"""From torch names to ours, without torch: where each parameter comes from, what is refused."""

import numpy as np
import pytest

from panoptic_jax.weights import foreign_names

SIZE, IMAGE, MAP = 4, 6, 3  # channels, and tokens of either kind
POSITIONS = {'image/positions': (IMAGE, SIZE), 'map/positions': (MAP, SIZE)}
TWO_STREAMS = {'map/blocks_0/norm1/scale': (SIZE,)}


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [
        ('image/blocks_0/qkv/kernel', 'in_blocks.0.attn.qkv.weight'),
        ('image/blocks_5/fc2/bias', 'in_blocks.5.mlp.fc2.bias'),
        ('image/blocks_6/norm1/scale', 'mid_block.norm1.weight'),
        ('image/blocks_7/skip/kernel', 'out_blocks.0.skip_linear.weight'),
        ('map/blocks_12/norm2/bias', 'out_blocks_mask.5.norm2.bias'),
        ('map/blocks_6/proj/kernel', 'mid_block_mask.attn.proj.weight'),
        ('map/zero_convs_0/kernel', 'zero_convs.1.conv.weight'),
        ('map/zero_convs_12/bias', 'zero_convs.25.conv.bias'),
        ('image/text_embed/bias', 'context_embed.bias'),
        ('map/patch_embed/kernel', 'mask_embed.proj.weight'),
        ('map/final_conv/kernel', 'final_layer_mask.weight'),
    ],
)
def test_where_parameters_come_from_at_depth_12(ours, theirs):
    assert foreign_names.torch_name(ours, 12, two_streams=True) == theirs


def translate(tensors, shapes, depth):
    """Codes of one bit, which have no order."""
    return foreign_names.translate(tensors, shapes, depth=depth, map_channels=1)


def test_values_of_a_patch_are_in_the_order_row_column_channel():
    conv = numbers(SIZE, 3, 2, 2)
    wanted = {'image/patch_embed/kernel': (12, SIZE)}
    found = translate({'patch_embed.proj.weight': conv}, wanted, 2).params
    kernel = found['image/patch_embed/kernel']
    assert kernel.dtype == np.float32
    for row, column, channel in np.ndindex(2, 2, 3):
        np.testing.assert_array_equal(
            kernel[6 * row + 3 * column + channel], conv[:, channel, row, column]
        )


def test_positions_of_one_stream_are_the_images_then_the_maps():
    positions = numbers(1, IMAGE + MAP, SIZE)
    found = translate({'pos_embed': positions}, POSITIONS, 2)
    np.testing.assert_array_equal(found.params['image/positions'], positions[0, :IMAGE])
    np.testing.assert_array_equal(found.params['map/positions'], positions[0, IMAGE:])
    # A U-ViT's are the image's alone: its last ones are no positions of a map.
    found = translate({'pos_embed': numbers(1, IMAGE, SIZE)}, POSITIONS, 2)
    assert not found.params
    assert found.misshapen.keys() == {'pos_embed'}


def test_positions_of_two_streams_are_arrays_of_their_own():
    tensors = {'pos_embed': numbers(1, IMAGE, SIZE), 'in_blocks_mask.0.norm1.weight': numbers(SIZE)}
    wanted = POSITIONS | TWO_STREAMS
    found = translate(tensors, wanted, 2)
    assert found.missing == ['pos_embed_mask']
    assert 'map/positions' not in found.params
    tensors['pos_embed_mask'] = -numbers(1, MAP, SIZE)
    found = translate(tensors, wanted, 2)
    np.testing.assert_array_equal(found.params['map/positions'], -numbers(MAP, SIZE))
    assert found.params.keys() == wanted.keys()


def test_parts_without_effect_are_left_out_and_others_are_not():
    dead = ['mask_embed_0.proj.weight', 'zero_convs.0.conv.bias', 'zero_convs.24.conv.weight',
            'decoder_pred_mask.bias']  # fmt: skip
    extra = ['zero_convs.27.conv.bias', 'label_emb.weight']
    tensors = {name: numbers(2) for name in [*dead, *extra, 'norm.weight']}
    found = translate(tensors, {'image/norm/scale': (2,)}, 12)
    assert sorted(found.dead) == sorted(dead)
    assert sorted(found.extra) == sorted(extra)
    # With a map head in the model, the same array is one of its parameters.
    found = translate(tensors, {'map/head/bias': (2,)}, 12)
    assert 'decoder_pred_mask.bias' not in found.dead
    assert found.params.keys() == {'map/head/bias'}


@pytest.mark.parametrize(
    ('ours', 'theirs', 'shape', 'found'),
    [
        ('image/norm/scale', 'norm.weight', (3,), (2,)),
        ('image/head/kernel', 'decoder_pred.weight', (3, 5), (3, 5)),  # theirs is (out, in)
        ('image/head/kernel', 'decoder_pred.weight', (3, 5), (5,)),
        ('map/zero_convs_0/kernel', 'zero_convs.1.conv.weight', (3, 3), (3, 3)),
        ('map/zero_convs_0/kernel', 'zero_convs.1.conv.weight', (3, 3), (3, 3, 3)),
        ('image/patch_embed/kernel', 'patch_embed.proj.weight', (8, 3), (3, 8)),
        ('image/positions', 'pos_embed', (6, 4), (6, 4)),
    ],
)
def test_other_shapes_are_told_and_pass_by_name_only(ours, theirs, shape, found):
    result = translate({theirs: numbers(*found)}, {ours: shape}, 2)
    assert (result.params, result.missing, result.extra) == ({}, [], [])
    message = f'{theirs} is {found}, which does not give {ours} of {shape}'
    assert result.misshapen == {theirs: message}
    with pytest.raises(ValueError, match='Of its weights 1 have other shapes') as error:
        foreign_names.require_complete(result, 'file', ['other*'], [theirs])
    assert message in str(error.value)
    foreign_names.require_complete(result, 'file', [theirs], [])


def test_long_lists_are_cut():
    assert foreign_names.brief(['a', 'b']) == 'a, b'
    assert foreign_names.brief([*'abcd'], most=2) == 'a, b and 2 more'
