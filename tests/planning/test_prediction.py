"""What a prediction says of a program that the compiler refuses."""

import jax
import jax.numpy as jnp
import pytest
from conftest import needs_libtpu
from jax.experimental import pallas as pl

from panoptic_jax.machine import chips
from panoptic_jax.planning import bundles
from panoptic_jax.planning.prediction import Program, predict
from panoptic_jax.planning.topology import topology_devices
from panoptic_jax.planning.traffic import Slices


@needs_libtpu
@pytest.mark.parametrize(
    ('mebibytes', 'refusal'), [(1, None), (12, 'limit 16.00M'), (40, '160.00M of 128.00M vmem')]
)
def test_a_lack_of_vector_memory_is_not_told_as_one_of_the_chips_memory(mebibytes, refusal):
    """A smaller batch would not help a kernel that needs more than a core's vector memory."""
    rows = mebibytes * 2**20 // (4 * 128)

    def copy(source, result):
        result[:] = source[:]

    def kernel(array):
        block = pl.BlockSpec((rows, 128), lambda n: (n, 0))
        shape = jax.ShapeDtypeStruct(array.shape, array.dtype)
        # Two blocks of each array are there at a time: one is fetched while another is worked on.
        return pl.pallas_call(copy, grid=(2,), in_specs=[block], out_specs=block, out_shape=shape)(
            array
        )

    with bundles.written() as folder:
        (device, *_) = topology_devices('v5e:2x2', num_slices=1)
        place = jax.sharding.SingleDeviceSharding(device)
        array = jax.ShapeDtypeStruct((2 * rows, 128), jnp.float32, sharding=place)
        program = Program(
            name='copy',
            lower=lambda: jax.jit(kernel).trace(array).lower(lowering_platforms=('tpu',)),
            flops=1,
            resident={'parameters': array},
            parameters=array.size,
            weight_reads=1,
        )

        def prediction():
            return predict(
                program,
                chips.known_chip(device.device_kind),
                devices=1,
                batch_per_device=1,
                bundles_folder=folder,
                slices=Slices(1, 1),
            )

        if refusal is None:
            assert prediction()['predicted_step_seconds'] > 0
        else:
            # Not DoesNotFit, which is a ValueError and speaks of batches.
            with pytest.raises(jax.errors.JaxRuntimeError, match=refusal):
                prediction()
