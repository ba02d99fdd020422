"""The table that `--mode=plan` prints: a prediction in words and units, and what it rests on."""

from collections.abc import Mapping
from typing import Any

from panoptic_jax.planning.operations import KERNEL_SHARE_OF_BANDWIDTH, KERNEL_SHARE_OF_PEAK


def prediction_table(name: str, report: Mapping[str, Any]) -> str:
    """Lines for the terminal.

    Args:
      name: 'train' or 'sample'.
      report: One of the predictions that `plan.plan` returns and writes to `plan.json`.
    """
    rows = _rows(report, work='step' if name == 'train' else 'batch of samples')
    lines = [
        f'== {name}: predicted by the compiler at {report["clock_hertz"] / 1e9:.2f} GHz, '
        'not measured =='
    ]
    lines += [f'{title:16} {text}' for title, text in rows]
    lines.append('costliest operations:')
    for cost in report['costliest']:
        # What no line of the model asked for is the compiler's own.
        source = cost['source'] or 'compiler'
        mark = ' (assumed)' if cost['assumed'] else ''
        # The unit that binds, as far as bundles tell.
        unit = f'{cost["unit"]} {cost["share"]:.0%}' if cost['unit'] else ''
        milliseconds = 1e3 * cost['seconds']
        lines.append(f'  {milliseconds:9.2f} ms  {unit:10} {source:28} {cost["operation"]}{mark}')
    return '\n'.join(lines)


def _rows(report: Mapping[str, Any], work: str) -> list[tuple[str, str]]:
    """(title, text) of every row; `work` names what one execution of the program does."""
    teraflops = report['model_flops_per_step'] / 1e12
    rows = [
        ('chips', _chips(report)),
        ('images a chip', f'{report["batch_per_device"]}'),
        ('parameters', f'{report["parameters"]:,}'),
        ('memory a chip', _memory(report)),
        ('images that fit', f'about {report["batch_that_fits"]} a chip'),
        ('arithmetic', f'{teraflops:.2f} TFLOP a {work}, all chips'),
        ('between chips', _traffic(report)),
        ('time', _time(report, work)),
        *_with_traffic(report, work),
        *_kernels(report),
        ('at least', _floors(report)),
        ('MFU', _mfu(report)),
        ('images/s', _speed(report)),
        ('compiled in', f'{report["compile_seconds"]:.0f} s'),
    ]
    # Only the train step belongs to a run of known length.
    if 'run' in report:
        rows.append(('this run', _run(report['run'])))
    return rows


def _chips(report: Mapping[str, Any]) -> str:
    slices = f'{report["num_slices"]} x ' if report['num_slices'] > 1 else ''
    axes = ' x '.join(f'{axis} {size}' for axis, size in report['mesh'].items())
    return f'{report["devices"]} {report["chip"]} ({slices}{report["topology"]}; {axes})'


def _memory(report: Mapping[str, Any]) -> str:
    sizes = report['bytes_per_device']
    parts = ', '.join(
        f'{kind} {size / 2**30:.2f}' for kind, size in sizes.items() if kind != 'total'
    )
    limit = report['memory_bytes'] / 2**30
    return f'{sizes["total"] / 2**30:.2f} of {limit:.0f} GiB: {parts}'


def _traffic(report: Mapping[str, Any]) -> str:
    # One chip, or weights that lie whole on every chip while it samples.
    if not report['collective_bytes']:
        return 'nothing'
    parts = ', '.join(
        f'{kind} {size / 2**20:.1f} MiB' for kind, size in report['collective_bytes'].items()
    )
    text = f'{parts} a chip; {1e3 * report["link_seconds"]:.2f} ms on the links'
    if report['network_seconds']:
        gigabytes = report['network_bytes_per_second'] / 1e9
        text += (
            f', {1e3 * report["network_seconds"]:.2f} ms between slices (assumed: '
            f'{gigabytes:.3g} GB/s a chip, assumed)'
        )
    return text


def _time(report: Mapping[str, Any], work: str) -> str:
    text = f'{1e3 * report["predicted_step_seconds"]:.2f} ms a {work}'
    assumed = report['assumed_kernel_seconds']
    # Where bundles are not known, the reader has to know what was assumed.
    if assumed:
        text += (
            f', of which {1e3 * assumed:.2f} assumed for kernels '
            f'({KERNEL_SHARE_OF_PEAK:.0%} of peak or {KERNEL_SHARE_OF_BANDWIDTH:.0%} of bandwidth)'
        )
    if 'xla_only' in report:
        milliseconds = 1e3 * report['xla_only']['predicted_step_seconds']
        text += f'; {milliseconds:.2f} ms without it'
    return text


def _with_traffic(report: Mapping[str, Any], work: str) -> list[tuple[str, str]]:
    """The time with what passes between chips, for programs in which something does."""
    if not report['collective_bytes']:
        return []
    hidden, exposed = (
        1e3 * report[f'{name}_traffic_step_seconds'] for name in ('hidden', 'exposed')
    )
    behind = f'the backward pass ({1e3 * report["backward_seconds"]:.2f} ms of it)'
    if not report['backward_seconds']:
        behind = 'computation'
    text = f'{hidden:.2f} ms a {work} if it hides behind {behind}, {exposed:.2f} if nothing hides'
    return [('with traffic', text)]


def _kernels(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row for each kernel, and how far bundles can be trusted."""
    rows = []
    for kernel in report['kernels']:
        text = f'{1e3 * kernel["seconds"]:.2f} ms in {kernel["calls"]} calls'
        if kernel['unit']:
            text += f', {kernel["unit"]} {kernel["share"]:.0%} full'
            text += f', {kernel["spills"]:.0%} of the stores are spills'
        rows.append((kernel['name'], text))
    if report['counted_to_estimated']:
        ratio = report['counted_to_estimated']
        rows.append(('bundles', f"{ratio:.2f} of the compiler's estimates for its matrix products"))
    return rows


def _floors(report: Mapping[str, Any]) -> str:
    arithmetic = 1e3 * report['arithmetic_floor_seconds']
    memory = 1e3 * report['memory_floor_seconds']
    return f'{arithmetic:.2f} ms of arithmetic, {memory:.2f} ms for reading and writing what stays'


def _mfu(report: Mapping[str, Any]) -> str:
    text = f'{report["predicted_mfu"]:.1%}'
    if 'xla_only' in report:
        text += f'; {report["xla_only"]["predicted_mfu"]:.1%} without our kernel'
    return text


def _speed(report: Mapping[str, Any]) -> str:
    a_chip = report['images_per_second_per_chip']
    together = report['images_per_second']
    return f'{a_chip:.1f} a chip, {together:,.0f} together'


def _run(run: Mapping[str, Any]) -> str:
    return (
        f'{run["images"]:,} images: {run["hours"]:.1f} hours, {run["chip_hours"]:,.0f} chip-hours'
    )
