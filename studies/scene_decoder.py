"""Trains the decoder of scenes for the latents of `pixels` (`encoders/pixel_decoder.py`).

    python studies/scene_decoder.py --minutes=30 --output=decoder.safetensors

Draws scenes, of both kinds, and shows the decoder random windows of them, with a little noise on
their latents, since latents of samples are not exact. Two errors count: that of each colour, and
that of texture, which the latents do not hold. For the latter the responses of filters are
sorted among neighbouring pixels, and sorted responses are compared: texture has to have the right
strength, direction and sparseness, and need not be in its place. The last lines say what held-out
scenes give.
"""

import argparse
import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
from flax.traverse_util import flatten_dict

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from panoptic_jax.data.scenes import Scenes
from panoptic_jax.encoders import pixel_decoder, pixels
from panoptic_jax.encoders.pixel_decoder import NOISE_CHANNELS, PixelDecoder

SEED = 15
SCENES, REPEATS = 2048, 1024  # scenes without and with repeats
WINDOW = 128  # pixels along each side of what a step sees
BATCH = 16
RATE = 2e-3
LATENT_NOISE = 0.05  # the largest deviation
TEXTURE_WEIGHT = 1.0
TEXTURE_WINDOW = 64  # pixels along each side of the part whose texture counts: sorting takes time
SORTED = 16  # pixels along each side of the squares in which responses are sorted
FILTERS = 8  # random ones, besides those of edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=float, required=True, help='processor minutes')
    parser.add_argument('--output', required=True, help='file to write, .safetensors')
    options = parser.parse_args()
    started = time.process_time()
    images = drawn(SCENES, 'train', repeats=False) + drawn(REPEATS, 'train', repeats=True)
    params = train(images, started=started, minutes=options.minutes)
    save(params, options.output)
    check(options.output)


def drawn(count: int, split: str, *, repeats: bool) -> list[np.ndarray]:
    """Images of scenes, (256, 256, 3) uint8 each."""
    scenes = Scenes(SEED, count, split, repeats=repeats)
    return [scenes[number].image for number in range(count)]


def train(images: list[np.ndarray], *, started: float, minutes: float) -> dict:
    """Trains until `minutes` of processor time are spent; the rate falls to 0 with them."""
    latents = jnp.zeros((1, 4, 4, 3))
    noise = jnp.zeros((1, 8, 8, NOISE_CHANNELS))
    params = PixelDecoder().init(jax.random.key(SEED), latents, noise)['params']
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(0.9, 0.99))
    state = optimizer.init(params)
    step = jax.jit(functools.partial(one_step, optimizer), donate_argnums=(0, 1))
    generator = np.random.default_rng(SEED)
    number = 0
    while (used := (time.process_time() - started) / 60) < minutes:
        rate = RATE * min(1, (number + 1) / 50) * (1 - used / minutes)
        batch = windows(images, generator)
        key = jax.random.key(number)
        params, state, errors = step(params, state, batch, key, rate)
        number += 1
        if number % 100 == 0:
            colour, texture = map(float, errors)
            line = f'step {number}  {used:.1f} min  colour {colour:.4f}  texture {texture:.4f}'
            print(line, flush=True)
    return params


def windows(images: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """(BATCH, WINDOW, WINDOW, 3) uint8 whose corners are corners of latent pixels."""
    places = 1 + (images[0].shape[0] - WINDOW) // pixels.FACTOR
    batch = []
    for number in generator.integers(len(images), size=BATCH):
        top, left = generator.integers(places, size=2) * pixels.FACTOR
        batch.append(images[number][top : top + WINDOW, left : left + WINDOW])
    return np.stack(batch)


def one_step(optimizer, params, state, batch, key, rate) -> tuple:
    """One step of Adam; returns the parameters, the state and (colour error, texture error)."""
    image = batch.astype(jnp.float32) / 127.5 - 1
    strength_key, latent_key, texture_key, place_key = jax.random.split(key, 4)
    latents = pixels.encode(image)
    strength = LATENT_NOISE * jax.random.uniform(strength_key, (BATCH, 1, 1, 1))
    latents = latents + strength * jax.random.normal(latent_key, latents.shape)
    side = 2 * latents.shape[1]
    noise = jax.random.normal(texture_key, (BATCH, side, side, NOISE_CHANNELS))

    top, left = jax.random.randint(place_key, (2,), 0, WINDOW - TEXTURE_WINDOW + 1)

    def part(image):
        sizes = (BATCH, TEXTURE_WINDOW, TEXTURE_WINDOW, 3)
        return jax.lax.dynamic_slice(image, (0, top, left, 0), sizes)

    def loss(params):
        decoded = PixelDecoder().apply({'params': params}, latents, noise)
        colour = jnp.abs(decoded - image).mean()
        texture = texture_error(part(decoded), part(image))
        return colour + TEXTURE_WEIGHT * texture, (colour, texture)

    gradients, errors = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradients, state, params)
    params = jax.tree.map(lambda value, update: value - rate * update, params, updates)
    return params, state, errors


def texture_error(decoded: jax.Array, image: jax.Array) -> jax.Array:
    """Mean distance of the sorted filter responses of each square."""
    return jnp.abs(sorted_responses(decoded) - sorted_responses(image)).mean()


def sorted_responses(image: jax.Array) -> jax.Array:
    """(B, h, w, 3) -> (squares and filters, SORTED^2), each row in ascending order."""
    grey = image.mean(axis=-1, keepdims=True)
    layout = ('NHWC', 'HWIO', 'NHWC')
    found = jax.lax.conv_general_dilated(grey, bank(), (1, 1), 'SAME', dimension_numbers=layout)
    batch, height, width, count = found.shape
    rows, columns = height // SORTED, width // SORTED
    blocks = found.reshape(batch, rows, SORTED, columns, SORTED, count)
    return jnp.sort(blocks.transpose(0, 1, 3, 5, 2, 4).reshape(-1, SORTED**2))


def bank() -> np.ndarray:
    """(5, 5, 1, filters) float32: random ones, edges across and down, a spot; all of unit norm."""
    filters = list(np.random.default_rng(0).standard_normal((FILTERS, 5, 5)))
    filters = [each - each.mean() for each in filters]
    across = np.zeros((5, 5))
    across[2, 1:3] = -1, 1
    spot = np.zeros((5, 5))
    spot[2, 2] = 1
    filters += [across, across.T, spot - 1 / 25]
    normed = [each / np.linalg.norm(each) for each in filters]
    return np.stack(normed, axis=-1)[:, :, None].astype(np.float32)


def save(params: dict, path: str) -> None:
    """Writes float16 in torch's names and layout, which `pixel_decoder.load` reads."""
    tensors = {}
    for name, value in flatten_dict(params, sep='.').items():
        array = np.asarray(value, np.float16)
        if name.endswith('.kernel'):
            name, array = name.removesuffix('kernel') + 'weight', array.transpose(3, 2, 0, 1)
        tensors[name] = np.ascontiguousarray(array)
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, path)


def check(path: str) -> None:
    """Prints errors of held-out scenes beside those of the plain enlargement."""
    params, sha256 = pixel_decoder.load(path)
    images = drawn(128, 'validation', repeats=False)
    decoders = {
        'decoder': jax.jit(functools.partial(pixel_decoder.decode, params)),
        'enlarged': jax.jit(pixels.decode),
    }
    print(f'{path} {sha256[:12]}, {sum(v.size for v in jax.tree.leaves(params)):,} parameters')
    for name, decode in decoders.items():
        errors = []
        for first in range(0, len(images), BATCH):
            image = jnp.asarray(np.stack(images[first : first + BATCH]), jnp.float32) / 127.5 - 1
            decoded = decode(pixels.encode(image))
            square = jnp.square(decoded - image).mean()
            errors.append((square, texture_error(decoded, image)))
        square, texture = np.mean(errors, axis=0)
        ratio = 10 * np.log10(4 / square)
        print(f'{name}: peak signal to noise {ratio:.2f} dB, texture error {texture:.4f}')


if __name__ == '__main__':
    main()
