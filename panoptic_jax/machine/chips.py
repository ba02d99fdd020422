"""Facts about accelerator chips from their makers' pages: peak arithmetic, memory and links.

What the devices at hand really reach is measured in `logs/clock.py`.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One device, as JAX counts devices.

    Attributes:
      peak_flops: Dense bfloat16 FLOP/s.
      flops_per_cycle: FLOP that all matrix units together do in one cycle; 0 if not a TPU.
      memory_bytes: Size of the high-bandwidth memory.
      memory_bandwidth: Bytes/s between that memory and the chip.
      link_bandwidth: Bytes/s over all links to other chips of a slice (ICI); 0 if not a TPU.
      network_bandwidth: Bytes/s of a chip's share of the data centre's network (DCN), which lies
        between slices; 0 if not a TPU.
    """

    peak_flops: float
    flops_per_cycle: int
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float = 0
    vector_memory: int = 0

    @property
    def clock_hertz(self) -> float:
        """The clock frequency that the peak and the number of matrix units imply."""
        return self.peak_flops / self.flops_per_cycle


def _tpu(
    *,
    teraflops: float,
    units: tuple[int, int],
    memory: tuple[int, float],
    vector_mebibytes: int,
    links: float,
    network: float,
) -> Chip:
    """A TPU with `units`: (count, side) of its matrix units, and `memory`: (GiB, GB/s).

    `links` are in GB/s. `network` is in Gbit/s for a chip: v5e's is on Cloud TPU's page, others
    quote v5p's and v6e's.
    """
    count, side = units
    gibibytes, bandwidth = memory
    # Each cell of a matrix unit does one multiplication and one addition a cycle.
    flops_per_cycle = count * 2 * side**2
    return Chip(
        peak_flops=teraflops * 1e12,
        flops_per_cycle=flops_per_cycle,
        memory_bytes=gibibytes * 2**30,
        memory_bandwidth=bandwidth * 1e9,
        link_bandwidth=links * 1e9,
        network_bandwidth=network * 1e9 / 8,
        vector_memory=vector_mebibytes * 2**20,
    )


def _gpu(*, teraflops: float, gibibytes: int, memory: float) -> Chip:
    """A GPU; `memory` in GB/s. Nothing is predicted for GPUs, so links and cycles stay out."""
    return Chip(
        peak_flops=teraflops * 1e12,
        flops_per_cycle=0,
        memory_bytes=gibibytes * 2**30,
        memory_bandwidth=memory * 1e9,
        link_bandwidth=0,
    )


# No page gives the v4's share of the network: it counts like the v5e's, 6.4 Tbit/s over the 256
# chips of a pod. The v5p has 50 Gbit/s a chip, the v6e 25.6 Tbit/s over 256 chips. How much vector
# memory a core has is in the compiler's message about a kernel that needs more.
_V4 = _tpu(
    teraflops=275, units=(8, 128), memory=(32, 1228), vector_mebibytes=16, links=300, network=25
)  # fmt: skip
_V5E = _tpu(
    teraflops=197, units=(4, 128), memory=(16, 819), vector_mebibytes=128, links=200, network=25
)  # fmt: skip
_V5P = _tpu(
    teraflops=459, units=(8, 128), memory=(95, 2765), vector_mebibytes=64, links=600, network=50
)  # fmt: skip
_V6E = _tpu(
    teraflops=918, units=(4, 256), memory=(32, 1640), vector_mebibytes=128, links=448, network=100
)  # fmt: skip

# The start of JAX's `device_kind`, and the chip. The first match counts, so 'TPU v5', which is the
# v5p, stands behind the names that begin alike.
_CHIPS = (
    ('TPU v4', _V4),
    ('TPU v5 lite', _V5E),
    ('TPU v5e', _V5E),
    ('TPU v5', _V5P),
    ('TPU v6', _V6E),
    ('NVIDIA A100', _gpu(teraflops=312, gibibytes=80, memory=2039)),
    ('NVIDIA H100', _gpu(teraflops=989, gibibytes=80, memory=3350)),
    ('NVIDIA H200', _gpu(teraflops=989, gibibytes=141, memory=4800)),
)


def known_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None where the table does not hold it."""
    for start, chip in _CHIPS:
        if device_kind.startswith(start):
            return chip
    return None
