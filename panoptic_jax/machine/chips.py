"""What is known of accelerators: peak arithmetic, memory and links, from their makers' pages.

What a device at hand reaches is measured in `clock.py`.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One device as JAX counts them.

    Attributes:
      peak_flops: Dense bfloat16 FLOP/s.
      flops_per_cycle: Of all its matrix units; 0 for what is not a TPU.
      memory_bytes: Of its own high-bandwidth memory.
      memory_bandwidth: Bytes/s of it.
      link_bandwidth: Bytes/s over all its links to other chips of a slice (ICI); 0 if not a TPU.
    """

    peak_flops: float
    flops_per_cycle: int
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float

    @property
    def clock_hertz(self) -> float:
        """The clock that peak and matrix units imply."""
        return self.peak_flops / self.flops_per_cycle


# By the start of JAX's `device_kind`; the first match counts. A TPU's matrix unit does 128 x 128
# (TPU v6: 256 x 256) multiplications and additions a cycle.
_UNIT, _LARGE_UNIT = 2 * 128**2, 2 * 256**2
_CHIPS = (
    ('TPU v4', Chip(275e12, 8 * _UNIT, 32 * 2**30, 1228e9, 300e9)),
    ('TPU v5 lite', Chip(197e12, 4 * _UNIT, 16 * 2**30, 819e9, 200e9)),
    ('TPU v5e', Chip(197e12, 4 * _UNIT, 16 * 2**30, 819e9, 200e9)),
    ('TPU v5', Chip(459e12, 8 * _UNIT, 95 * 2**30, 2765e9, 600e9)),
    ('TPU v6', Chip(918e12, 4 * _LARGE_UNIT, 32 * 2**30, 1640e9, 448e9)),
    ('NVIDIA A100', Chip(312e12, 0, 80 * 2**30, 2039e9, 0)),
    ('NVIDIA H100', Chip(989e12, 0, 80 * 2**30, 3350e9, 0)),
    ('NVIDIA H200', Chip(989e12, 0, 141 * 2**30, 4800e9, 0)),
)


def known_chip(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`, if it is in the table."""
    return next((chip for start, chip in _CHIPS if device_kind.startswith(start)), None)
