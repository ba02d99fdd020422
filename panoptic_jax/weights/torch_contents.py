"""Where the weights are in what a PyTorch checkpoint holds: which part, and under which prefix.

Trainings save averaged weights, optimisers and settings side by side, and wrap their models.
`weights/torch_file.py` reads the file; no PyTorch is needed here.
"""

import collections
from collections.abc import Mapping
from typing import Any

from absl import logging

from panoptic_jax.weights import foreign_names

# What wrappers put in front of all names: data parallelism, compilation, classes around the model.
_WRAPPERS = ('module.', '_orig_mod.', 'model.', 'nnet_ema.', 'nnet.', 'ema_model.', 'model_ema.',
             'ema.', 'net.', '_forward_module.', 'state_dict.')  # fmt: skip
_DEEPEST = 4  # parts within parts


class Stranger:
    """Stands for an object of a class that was not loaded; whatever it held is left out."""

    def __new__(cls, *_: Any, **__: Any) -> 'Stranger':
        """An empty stand-in, whatever the class would have been made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes whatever the class would have taken."""

    def __setstate__(self, state: Any) -> None:
        """Keeps nothing."""


class StrangeDict(Stranger):
    """Stands for a class that is a kind of dict; what it held by key is kept."""

    def __new__(cls, *_: Any, **__: Any) -> collections.OrderedDict:
        """An empty dict of the kind that PyTorch's unpickler fills."""
        return collections.OrderedDict()


def state_dict(content: Any, path: str) -> tuple[dict[str, Any], str]:
    """The weights by name in a checkpoint, averaged ones where it holds several.

    Args:
      content: What the file holds.
      path: The file, for messages.

    Returns:
      {name: tensor or whatever lies beside tensors}, without the prefixes of wrappers; and where in
      the file they are, such as 'nnet_ema' or 'ema/state_dict', '' for all of it.

    Raises:
      ValueError: there are no weights by name, or it cannot be told which are meant.
    """
    items, taken, others = _items(content, path), [], []
    for _ in range(_DEEPEST):
        parts = {name: value for name, value in items.items() if _holds_tensors(value)}
        if not parts or any(_is_tensor(value) for value in items.values()):
            break
        name = _chosen([*parts], items, path)
        taken.append(name)
        others += [other for other in items if other != name]
        items = _items(parts[name], path)
    if taken:
        logging.info(
            'Took %s of %s, and left out %s.',
            '/'.join(taken), path, foreign_names.brief(others) or 'nothing',
        )  # fmt: skip
    if not any(_is_tensor(value) for value in items.values()):
        raise ValueError(
            f'{path} holds {foreign_names.brief([*items])} and no weights by name; save the state '
            'dict where it was made: torch.save(model.state_dict(), NEW_PATH).'
        )
    return _unwrapped(items, path), '/'.join(taken)


def _items(content: Any, path: str) -> dict[str, Any]:
    if not isinstance(content, Mapping) or not content:
        kind = type(content).__name__
        raise ValueError(
            f'{path} holds no weights by name, but a {kind}; save the state dict where it was '
            'made: torch.save(model.state_dict(), NEW_PATH).'
        )
    return {str(name): value for name, value in content.items()}


def _is_tensor(value: Any) -> bool:
    # By what tensors have, since PyTorch is not imported here.
    return hasattr(value, 'dtype') and hasattr(value, 'is_meta')


def _holds_tensors(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether something is weights by name, or parts of which one is."""
    if not isinstance(value, Mapping) or not depth:
        return False
    # An optimiser's state holds tensors, too, by numbers and lists.
    if 'param_groups' in value:
        return False
    by_name = {name: each for name, each in value.items() if isinstance(name, str)}
    return any(_is_weight(each) or _holds_tensors(each, depth - 1) for each in by_name.values())


def _is_weight(value: Any) -> bool:
    # States of random generators are tensors of bytes, and best scores have no axes.
    return _is_tensor(value) and 'float' in str(value.dtype) and len(value.shape) > 0


def _chosen(names: list[str], items: Mapping[str, Any], path: str) -> str:
    """The part to take: the only one, or the only one of averaged weights."""
    averaged = [name for name in names if 'ema' in name.lower().split('_')]
    for choice in (names, averaged):
        if len(choice) == 1:
            return choice[0]
    raise ValueError(
        f'{path} holds {foreign_names.brief([*items])} instead of weights by name, and nothing '
        f'tells which of {foreign_names.brief(names)} is meant; save the one that is wanted alone: '
        f'torch.save(torch.load(PATH)[{names[0]!r}], NEW_PATH).'
    )


def _unwrapped(items: dict[str, Any], path: str) -> dict[str, Any]:
    """The items without prefixes that all names have; averaged ones where there are two copies."""
    stripped = ''
    while prefix := _common_prefix(items):
        stripped += prefix
        items = {name.removeprefix(prefix): value for name, value in items.items()}
    for averaged, plain in (('nnet_ema.', 'nnet.'), ('ema_model.', 'online_model.'),
                            ('ema.', 'model.'), ('model_ema.', 'model.')):  # fmt: skip
        ours = {name for name in items if name.startswith(averaged)}
        theirs = {name for name in items if name.startswith(plain)}
        # Both copies, and hardly anything else: a counter, say.
        if ours and theirs and len(ours) + len(theirs) > 0.9 * len(items):
            logging.info(
                'Took the weights %s* of %s, and left out %s*.', stripped + averaged, path, plain
            )
            return _unwrapped({name: items[name] for name in items if name in ours}, path)
    if stripped:
        logging.info('Left out the prefix %r of all names in %s.', stripped, path)
    return items


def _common_prefix(items: Mapping[str, Any]) -> str:
    """A wrapper's prefix that all names of tensors have; '' where there is none."""
    names = [name for name, value in items.items() if _is_tensor(value)]
    for prefix in _WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return ''
