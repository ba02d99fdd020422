"""The streams and their kinds of prediction by name, for the command line, which needs no JAX.

`diffusion/streams.py` says what they mean.
"""

NAMES = ('image', 'map')  # the order of streams wherever they are columns
PREDICTIONS = ('noise', 'data', 'velocity')
