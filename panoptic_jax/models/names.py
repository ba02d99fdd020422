"""The networks by name, and the published sizes: what a command line has to know of models.

Nothing here needs JAX, so that --help and a misspelt setting are answered at once.
`models/build.py` makes the networks.
"""

NAMES = ('uvit', 'one_stream', 'two_stream', 'joint')
# The published U-ViTs, all with latent patches of 2x2 and an MLP of four times the hidden size.
SIZES = {
    'S': {'hidden_size': 512, 'depth': 12, 'num_heads': 8},
    'S-deep': {'hidden_size': 512, 'depth': 16, 'num_heads': 8},
    'M': {'hidden_size': 768, 'depth': 16, 'num_heads': 12},
    'L': {'hidden_size': 1024, 'depth': 20, 'num_heads': 16},
    'H': {'hidden_size': 1152, 'depth': 28, 'num_heads': 16},
}


def has_map(name: str) -> bool:
    """Whether a model of this name reads a map; the plain U-ViT does not."""
    return name != 'uvit'
