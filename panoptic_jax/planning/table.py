"""The table that `--mode=plan` prints: a prediction in words and units, and what it rests on."""

from collections.abc import Mapping
from typing import Any

from panoptic_jax.planning.schedule import KERNEL_SHARE_OF_BANDWIDTH, KERNEL_SHARE_OF_PEAK


def table(name: str, report: Mapping[str, Any]) -> str:
    """Lines for the terminal.

    Args:
      name: 'train' or 'sample'.
      report: One of `plan.json`, see `plan.plan`.
    """
    each = 'step' if name == 'train' else 'batch of samples'
    slices = f'{report["num_slices"]} x ' if report['num_slices'] > 1 else ''
    axes = ' x '.join(f'{axis} {size}' for axis, size in report['mesh'].items())
    rows = [
        ('chips', f'{report["devices"]} {report["chip"]} ({slices}{report["topology"]}; {axes})'),
        ('images a chip', f'{report["batch_per_device"]}'),
        ('parameters', f'{report["parameters"]:,}'),
        ('memory a chip', _memory(report)),
        ('images that fit', f'about {report["batch_that_fits"]} a chip'),
        ('arithmetic', f'{report["model_flops_per_step"] / 1e12:.2f} TFLOP a {each}, all chips'),
        ('between chips', _traffic(report)),
        ('time', _time(report, each)),
        ('at least', _floors(report)),
        ('MFU', _mfu(report)),
        (
            'images/s',
            f'{report["images_per_second_per_chip"]:.1f} a chip, '
            f'{report["images_per_second"]:,.0f} together',
        ),
        ('compiled in', f'{report["compile_seconds"]:.0f} s'),
    ]
    if 'run' in report:
        run = report['run']
        rows.append(
            (
                'this run',
                f'{run["images"]:,} images: {run["hours"]:.1f} hours, '
                f'{run["chip_hours"]:,.0f} chip-hours',
            )
        )
    lines = [
        f'== {name}: predicted by the compiler at {report["clock_hertz"] / 1e9:.2f} GHz, '
        'not measured =='
    ]
    lines += [f'{title:16} {text}' for title, text in rows]
    lines.append('costliest operations:')
    for row in report['costliest']:
        marked = ' (assumed)' if row['assumed'] else ''
        lines.append(
            f'  {1e3 * row["seconds"]:9.2f} ms  {row["source"] or "compiler":28} '
            f'{row["operation"]}{marked}'
        )
    return '\n'.join(lines)


def _memory(report):
    sizes = report['bytes_per_device']
    parts = ', '.join(
        f'{kind} {size / 2**30:.2f}' for kind, size in sizes.items() if kind != 'total'
    )
    limit = report['memory_bytes'] / 2**30
    return f'{sizes["total"] / 2**30:.2f} of {limit:.0f} GiB: {parts}'


def _traffic(report):
    if not report['collective_bytes']:
        return 'nothing'
    parts = ', '.join(
        f'{kind} {n / 2**20:.1f} MiB' for kind, n in report['collective_bytes'].items()
    )
    return f'{parts} a chip; {1e3 * report["link_seconds"]:.2f} ms if nothing hides it, not counted'


def _time(report, each):
    text = f'{1e3 * report["predicted_step_seconds"]:.2f} ms a {each}'
    assumed = report['assumed_kernel_seconds']
    if assumed:
        text += (
            f', of which {1e3 * assumed:.2f} assumed for our attention kernel '
            f'({KERNEL_SHARE_OF_PEAK:.0%} of peak or {KERNEL_SHARE_OF_BANDWIDTH:.0%} of bandwidth)'
        )
    if 'xla_only' in report:
        text += f'; {1e3 * report["xla_only"]["predicted_step_seconds"]:.2f} ms without it'
    return text


def _floors(report):
    return (
        f'{1e3 * report["arithmetic_floor_seconds"]:.2f} ms of arithmetic, '
        f'{1e3 * report["memory_floor_seconds"]:.2f} ms for reading and writing what stays'
    )


def _mfu(report):
    text = f'{report["predicted_mfu"]:.1%}'
    if 'xla_only' in report:
        text += f'; {report["xla_only"]["predicted_mfu"]:.1%} without our kernel'
    return text
