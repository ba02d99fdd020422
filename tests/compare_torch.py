"""Our speed beside plain PyTorch's on a CPU or a GPU, in one run: a measurement, not a test.

    python tests/compare_torch.py [--model=one_stream] [--batch=4] [--rounds=7] [--cores=2]
    python tests/compare_torch.py --gpu --compile --batch=64

Both have the same weights of size S and the same drawn inputs, and must report the same losses and
predictions before anything is timed. Then they take turns on the same cores: a guided network
evaluation, and a train step (Algorithm 1's losses, gradients, AdamW, average). With `--compile`
PyTorch's own compiler takes part, where it runs. On a CPU each round's processor time counts, since
other jobs may take the cores away. OpenMP's threads sleep while they wait: spinning would count
against PyTorch. With `--gpu` both compute in bfloat16, PyTorch by autocast with its fused attention
and its fused AdamW, and the time on the clock counts, the wait for the GPU included.
"""

import argparse
import contextlib
import copy
import functools
import os
import sys
import time

os.environ['JAX_PLATFORMS'] = 'cuda' if '--gpu' in sys.argv else 'cpu'
os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'] = '.5'  # the rest is PyTorch's
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'  # read when PyTorch is imported

import jax
import numpy as np
import torch_pdm
from flax.traverse_util import flatten_dict, unflatten_dict
from torch_reference import assert_close, import_torch

from panoptic_jax.diffusion import guidance, loss, schedule, streams
from panoptic_jax.diffusion.bits import NUM_BITS
from panoptic_jax.logs import clock
from panoptic_jax.machine import sharding
from panoptic_jax.models import build, uvit
from panoptic_jax.models.forms import compute_dtype, for_mesh
from panoptic_jax.programs import optimizers, state, train_step
from panoptic_jax.weights import foreign_names

torch = import_torch()
GPU = os.environ['JAX_PLATFORMS'] == 'cuda'
RATE, BETAS, DECAY, EMA = 2e-4, (0.9, 0.9), 0.03, 0.9999


def channels_first(array):
    # PyTorch takes no views that run backwards.
    return torch.tensor(np.ascontiguousarray(np.asarray(array).transpose(0, 3, 1, 2)))


def in_their_order(inputs):
    """The inputs as PyTorch's model takes them: channels first, of maps the last bit first."""
    turned = inputs._replace(
        clean=inputs.clean | {'map': inputs.clean['map'][..., ::-1]},
        noise=inputs.noise | {'map': inputs.noise['map'][..., ::-1]},
    )
    return jax.tree.map(
        lambda value: channels_first(value) if value.ndim == 4 else torch.tensor(value),
        turned._asdict(),
    )


def draw(batch_size):
    """What `loss.draw_inputs` gives, in NumPy."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=(batch_size, *shape)).astype(np.float32)

    t = rng.integers(1, 1001, batch_size).astype(np.int32)
    return loss.Inputs(
        clean={'image': normal(32, 32, 4), 'map': np.sign(normal(64, 64, 8))},
        noise={'image': normal(32, 32, 4), 'map': normal(64, 64, 8)},
        t={'image': t, 'map': t},
        text=normal(77, 768),
    )


def half_on_gpu():
    """PyTorch's bfloat16. It keeps what it rounded until the context ends: one context a call."""
    return torch.autocast('cuda', torch.bfloat16) if GPU else contextlib.nullcontext()


def torch_train_step(model, average, optimizer, inputs):
    """What `train_step.train_step` does with drawn inputs; returns both losses."""
    table = torch.tensor(schedule.training_table())
    clean, eps, time = inputs['clean'], inputs['noise'], inputs['t']['image']
    alpha, sigma = table[time].T[..., None, None, None]
    x_t = alpha * clean['image'] + sigma * eps['image']
    m_t = alpha * clean['map'] + sigma * 2 * eps['map']
    with half_on_gpu():
        noise, bits = model(x_t, m_t, inputs['text'], time)
    losses = [
        torch.mean((noise.float() - eps['image']) ** 2),
        torch.mean((bits.float() - clean['map']) ** 2),
    ]
    optimizer.zero_grad(set_to_none=True)
    sum(losses).backward()
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(average, list(model.parameters()), 1 - EMA)
    return [value.item() for value in losses]


def train_step_of(reference, params, model, batch_size):
    """{name: function that takes one step and returns its losses}."""
    inputs = draw(batch_size)
    recipe = train_step.Recipe(
        seed=0,
        steps=2,
        batch_size=batch_size,
        microbatches=1,
        optimizer='adamw',
        learning_rate=RATE,
        warmup_steps=0,
        cooldown=0.0,
        weight_decay=DECAY,
        betas=BETAS,
        ema_decay=EMA,
        text_dropout=0.0,
        loss_weights={},
        shares=None,
    )
    optimizer = optimizers.make('adamw', lambda step: RATE, DECAY, BETAS)
    objective = loss.Objective(streams.PAPER)
    step = jax.jit(
        functools.partial(
            train_step.train_step,
            losses=functools.partial(train_step.example_losses, model, objective=objective),
            draw=lambda batch, key: batch,
            optimizer=optimizer,
            recipe=recipe,
        ),
        donate_argnums=0,
    )
    train_state = jax.jit(lambda p: state.create(p, lambda path: False, optimizer))(params)
    compiled = step.lower(train_state, inputs).compile()
    arrays = jax.device_put(inputs)

    def ours():
        nonlocal train_state
        train_state = compiled(train_state.replace(totals=state.zero_totals()), arrays)
        totals = jax.block_until_ready(train_state).totals
        return [float(totals[name]) for name in ('loss_image', 'loss_map')]

    theirs_inputs = in_their_order(inputs)

    def contender(network):
        theirs_optimizer = torch.optim.AdamW(
            network.parameters(), RATE, BETAS, eps=1e-8, weight_decay=DECAY, fused=GPU
        )
        average = [value.detach().clone() for value in network.parameters()]
        return lambda: torch_train_step(network, average, theirs_optimizer, theirs_inputs)

    return {'ours': ours} | {name: contender(network) for name, network in reference.items()}


def evaluation_of(reference, params, model, batch_size):
    """The same for one guided network evaluation of `batch_size` pairs."""
    inputs = draw(batch_size)
    empty = np.zeros((77, 768), np.float32)
    x, m, text = inputs.clean['image'], inputs.clean['map'], inputs.text
    t = inputs.t['image'].astype(np.float32)

    @jax.jit
    def evaluate(params, x, m, text, t):
        predict = functools.partial(model.apply, {'params': params})
        both = guidance.Guidance({'image': 1.0, 'map': 1.0})
        return guidance.guided(predict, text, empty, both)(x, m, t)

    compiled = evaluate.lower(params, x, m, text, t).compile()
    arrays = jax.device_put((x, m, text, t))

    def ours():
        return jax.block_until_ready(compiled(params, *arrays))

    both = [
        torch.cat([value, value]) for value in (channels_first(x), channels_first(m[..., ::-1]))
    ]
    texts = torch.cat([torch.tensor(text), torch.tensor(empty).expand(len(text), -1, -1)])
    times = torch.tensor(np.concatenate([t, t]))

    @torch.no_grad()
    def theirs(network):
        with half_on_gpu():
            outputs = [output.chunk(2) for output in network(*both, texts, times)]
        guided = [conditional + (conditional - empty) for conditional, empty in outputs]
        if GPU:
            torch.cuda.synchronize()
        return guided

    contenders = {name: functools.partial(theirs, net) for name, net in reference.items()}
    return {'ours': ours} | contenders


def race(name, functions, images, flops, rounds):
    """The time of each by turns, and the ratio of every round, printed."""
    taken = {who: [] for who in functions}
    for _ in range(rounds):
        for who, function in functions.items():
            started, processor = time.perf_counter(), time.process_time()
            function()
            used = time.process_time() - processor
            seconds = time.perf_counter() - started
            # A GPU's work takes no time of the processor.
            taken[who].append((seconds if GPU else used, seconds))
    peak = clock.matmul_peak(jax.devices())
    counted = 'time' if GPU else 'processor time'
    for who, both in taken.items():
        used, seconds = np.median(both, axis=0)
        share = flops / seconds / peak
        print(
            f'{name:20} {who:16} {used:7.4f} s ({counted}), {images / seconds:9.3f} images/s  '
            f'{share:.1%} of the matmul peak'
        )
    used = {who: np.array(both)[:, 0] for who, both in taken.items()}
    ours = used.pop('ours')
    for who, theirs in used.items():
        least, median, most = np.quantile(theirs / ours, (0, 0.5, 1))
        print(
            f'{name:20} {who} / ours, {counted}: {least:.2f} .. {median:.2f} .. {most:.2f}  '
            f'(peak {peak / 1e9:.0f} GFLOP/s)',
            flush=True,
        )


def processor():
    """The name of the GPU or of the processor, the latter as Linux has it."""
    if GPU:
        return jax.devices()[0].device_kind
    with open('/proc/cpuinfo') as lines:
        names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else 'unknown'


def both_networks(kind):
    """(PyTorch's network, ours, our parameters with its weights, operations of a pair)."""
    reference = torch_pdm.random_pdm(kind)
    shape = {'latent_shape': (32, 32, 4), 'text_tokens': 77, 'map_channels': NUM_BITS}
    # Their zero-convs have a bias.
    shape |= uvit.SIZES['S'] | {'zero_conv_bias': kind == 'two_stream'}
    mesh = sharding.make_mesh()
    model = build.build(kind, forms=for_mesh(mesh), dtype=compute_dtype('auto', mesh), **shape)
    plain = build.build(kind, **shape)
    arrays = build.example_inputs(
        latent_shape=(32, 32, 4),
        patch_factor=2,
        text_shape=(77, 768),
        map_channels=NUM_BITS,
        batch_size=1,
    )
    shapes = build.abstract_parameters(model, arrays)
    flops = build.matmul_flops(plain.apply, {'params': shapes}, *arrays)
    wanted = {path: leaf.shape for path, leaf in flatten_dict(shapes, sep='/').items()}
    tensors = {name: value.numpy() for name, value in reference.state_dict().items()}
    depth = uvit.SIZES['S']['depth']
    found = foreign_names.translate(tensors, wanted, depth=depth, map_channels=NUM_BITS)
    params = jax.device_put(unflatten_dict(found.params, sep='/'))
    # An embedding that their code never calls would only burden their optimiser.
    del reference.mask_embed_0
    if GPU:
        reference.to('cuda')
    return reference, model, params, flops


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', choices=['one_stream', 'two_stream'], default='one_stream')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--cores', type=int, default=os.cpu_count())
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--gpu', action='store_true')
    chosen = parser.parse_args()
    # Before JAX counts the cores for its threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.cores])
    torch.set_num_threads(chosen.cores)
    print(f'{processor()}, {chosen.cores} cores; JAX {jax.__version__}, {torch.__version__=}')

    reference, model, params, flops = both_networks(chosen.model)
    theirs = {'PyTorch': reference}
    if GPU:
        torch.set_default_device('cuda')  # what is made from here on
    if chosen.compile:
        theirs['PyTorch compiled'] = torch.compile(copy.deepcopy(reference))

    functions = evaluation_of(theirs, params, model, chosen.batch)
    image, bits = functions['ours']()
    for name in theirs:
        their_image, their_bits = functions[name]()
        # They write a map's last bit first.
        for found, expected in ((image, their_image), (bits[..., ::-1], their_bits)):
            assert_close(found, expected.permute(0, 2, 3, 1).float().cpu(), 0.1 if GPU else 1e-4)
    race('network evaluation', functions, chosen.batch, 2 * chosen.batch * flops, chosen.rounds)

    for network in theirs.values():
        network.train()
    functions = train_step_of(theirs, params, model, chosen.batch)
    for _ in range(2):  # the second step's losses depend on the first's gradients and optimiser
        found = {who: step() for who, step in functions.items()}
        print('losses', found)
        for losses in found.values():
            np.testing.assert_allclose(losses, found['ours'], rtol=1e-2 if GPU else 1e-3)
    race('train step', functions, chosen.batch, 3 * chosen.batch * flops, chosen.rounds)


if __name__ == '__main__':
    main()
