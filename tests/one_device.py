"""The modes on the first of the eight CPU devices, as tests run them; faster than on all eight."""

import jax

from panoptic_jax import evaluate as evaluation
from panoptic_jax import prepare as preparation
from panoptic_jax import sample as sampling
from panoptic_jax import train as training

PEAK_FLOPS = 1e11  # measuring the peak takes seconds


def devices():
    """The first device alone."""
    return jax.devices()[:1]


def prepare(config):
    preparation.prepare(config, devices=devices())


def train(config, workdir, **options):
    options = {'devices': devices(), 'peak_flops': PEAK_FLOPS} | options
    return training.train(config, str(workdir), **options)


def sample(config, workdir):
    sampling.sample(config, str(workdir), devices=devices())


def evaluate(config, workdir, **options):
    evaluation.evaluate(config, str(workdir), devices=devices(), **options)
