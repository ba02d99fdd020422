"""What `--mode=benchmark` prints. `benchmark.py` measures it."""

from collections.abc import Mapping
from typing import Any


def lines_of(report: Mapping[str, Any]) -> str:
    """The lines for the terminal.

    Args:
      report: What `benchmark.benchmark` returns.
    """
    # What plain products reach on these devices is a fairer yardstick than the maker's peak.
    known, examples = report['known_peak_flops'], report['loader_examples_per_second']
    peak = f'{report["matmul_peak_flops"] / 1e12:.2f} TFLOP/s measured'
    block = f'a whole block {report["block_error"]:.1e}'
    rows = [
        ('devices', f'{report["devices"]} {report["device_kind"]}'),
        ('attention', f'{report["attention_error"]:.1e} deviations from the plain form, {block}'),
        ('matrix products', peak + (f', {known / 1e12:.2f} by their maker' if known else '')),
    ]
    for name, unit in (('train', 'step'), ('sample', 'batch')):
        part, rate = report[name], report[f'{name}_images_per_second']
        share = f'{report[f"{name}_share_of_peak"]:.0%} of the measured peak'
        if known:
            factor = report['matmul_peak_flops'] / known
            share += f', {factor * report[f"{name}_share_of_peak"]:.0%} of the known one'
        times = f'{part["seconds"]:.3f} s, median of {part["repetitions"]}'
        rows += [
            (f'{name}, batch {part["batch_size"]}', f'{rate:.2f} images/s, {share}'),
            (f'  a {unit}', f'{times}; compiled in {part["compile_seconds"]:.0f} s'),
        ]
    outside = report['outside_seconds_per_pair']
    if outside is not None:
        drawing = report['sample']['seconds'] / report['sample']['batch_size']
        beside = f'{1000 * outside:.0f} ms a pair, {outside / (drawing + outside):.0%} of a job'
        rows.append(('outside the sampler', f'{beside}, beside the next batch'))
    loaded = f'not measured: no prepared data in {report["data"]}'
    if examples is not None:
        ratio = examples / report['train_images_per_second']
        loaded = f'{examples:,.0f} examples/s, {ratio:.1f} times what training takes'
    lines = [f'{title:24} {text}' for title, text in [*rows, ('loader', loaded)]]
    return '\n'.join(['== measured ==', *lines])
