"""The devices of a TPU slice that need not exist, for compilation ahead of time with libtpu.

`machine/sharding.py` makes meshes of devices, and `machine/chips.py` knows the chips' peaks.
"""

import os

import jax
from jax.experimental import topologies

from panoptic_jax.machine import chips
from panoptic_jax.machine.disk import first_line

# Otherwise libtpu asks the cloud's metadata server where it runs, and wants the machine for itself.
_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def topology_devices(name: str, num_slices: int) -> list[jax.Device]:
    """The devices of TPU slices that libtpu describes.

    From then on JAX computes on this machine's CPU only.

    Args:
      name: The chips and their arrangement in one slice, such as 'v5e:16x16'.
      num_slices: Number of slices.

    Raises:
      ValueError: libtpu is not installed or does not know the topology, or the peaks of its chips
        are not known.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # Programs are compiled and never run, so the machine's own accelerators are left alone.
    jax.config.update('jax_platforms', 'cpu')
    options = {'num_slices': num_slices} if num_slices > 1 else {}
    if name.startswith('v4:'):
        # Without it libtpu gives two devices a chip, and a real v4 chip is one device.
        options['chip_config_name'] = 'megacore'
    try:
        topology = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
    except Exception as error:  # the type differs between releases of JAX and libtpu
        raise ValueError(
            f'plan.topology is {name!r}, for which libtpu gives no devices ({first_line(error)}); '
            "it takes names such as 'v5e:4x4', 'v5p:2x2x2' or 'v6e:16x16', and `pip install "
            "'jax[tpu]'` if libtpu is missing."
        ) from error
    kind = topology.devices[0].device_kind
    if not chips.known_chip(kind):
        raise ValueError(
            f'plan.topology is {name!r}, of chips {kind!r}, whose peaks are not in chips.py yet; '
            'add them there.'
        )
    return list(topology.devices)
