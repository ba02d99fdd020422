"""What a sampler is made for: which streams are given whole, in part or as a rough start.

Here are the tasks and which weights can serve them. The arrays that requests give are in
`programs/conditions.py`, and `programs/sampler.py` draws.
"""

from typing import NamedTuple

from panoptic_jax.diffusion import schedule
from panoptic_jax.programs.description import Description

_OWN_TIMES = 'weights trained with model.separate_times=True'


class Role(NamedTuple):
    """How one stream takes part; by default it is drawn from noise alone.

    Attributes:
      given: Whether requests give it.
      known: Whether only a part of what is given is known, and the rest is drawn.
      strength: The time in (0.001, 1] at which drawing starts from what is given, with noise. Near
        1 little of it is left. None: it starts from noise, or stands.
    """

    given: bool = False
    known: bool = False
    strength: float | None = None

    @property
    def stands(self) -> bool:
        """Whether the stream is given whole and stays as it is."""
        return self.given and not self.known and self.strength is None

    @property
    def start(self) -> float:
        """The time that the stream starts from; 0 for one that stands."""
        if self.stands:
            return 0.0
        return schedule.LAST_TIME if self.strength is None else self.strength


class Task(NamedTuple):
    """What all requests of one compiled sampler have in common."""

    image: Role = Role()
    map: Role = Role()


def usual_task(description: Description) -> Task:
    """What a model is made for: caption -> pair, or map and caption -> image."""
    return Task(map=Role(given=description.given_map))


def check_task(description: Description, task: Task, offset: float = 0.0) -> None:
    """Refuses what the weights were not trained for.

    Args:
      description: The model.
      task: What requests give.
      offset: Share of the evaluations by which the map is ahead of the image.

    Raises:
      ValueError: one sentence that says which weights could.
    """
    for name, role in task._asdict().items():
        _check_role(name, role)
    if task.image.stands and (task.map.stands or not description.has_map):
        raise ValueError(
            'Everything is given and nothing is left to draw; give a part of it less, or add '
            "'known' or 'strength'."
        )
    if not description.has_map:
        if task.map.given:
            raise ValueError(
                f'Weights of {description.model.name!r} know no maps, and a map is given; take '
                "weights of 'one_stream' or 'two_stream'."
            )
    elif description.given_map:
        _check_given_map(task)
    elif not description.model.separate_times:
        _check_one_time(task, offset)
    if task.map.given and description.model.zero_map_input and not task.map.stands:
        raise ValueError(
            'These weights never see the noisy map (model.zero_map_input=True), so a given part of '
            'it has no effect; take weights with model.zero_map_input=False.'
        )


def _check_role(name: str, role: Role) -> None:
    for field in ('known', 'strength'):
        if getattr(role, field) and not role.given:
            raise ValueError(f"'{field}' is set for the {name}, and no {name} is given; give one.")
    strength = role.strength
    if strength is not None and not schedule.FIRST_TIME < strength <= schedule.LAST_TIME:
        raise ValueError(
            f'The strength of the {name} is {strength!r}; it must be above 0.001 and at most 1.'
        )


def _check_given_map(task: Task) -> None:
    if task.image.stands:
        raise ValueError(
            'These weights (model.given_map=True) draw images only, and the image is given whole; '
            f'a map of an image is drawn by {_OWN_TIMES}.'
        )
    if not task.map.stands:
        raise ValueError(
            'These weights (model.given_map=True) need a whole map, without known or strength; '
            f'maps are drawn by weights with model.given_map=False, both ways by {_OWN_TIMES}.'
        )


def _check_one_time(task: Task, offset: float) -> None:
    """One time for both streams leaves drawing both together, with known parts, from one time."""
    for name, role, more in (
        ('image', task.image, ''),
        ('map', task.map, ' or model.given_map=True'),
    ):
        if role.stands:
            raise ValueError(
                f'These weights have one time for image and map, and a whole {name} is given; that '
                f"needs {_OWN_TIMES}{more}, or say with 'known' that all of the {name} is known."
            )
    if task.image.strength != task.map.strength:
        raise ValueError(
            'These weights have one time for image and map, so a strength needs an image and a '
            f'map and is the same for both; other starts need {_OWN_TIMES}.'
        )
    if offset:
        raise ValueError(
            'These weights have one time for image and map, so both are drawn together '
            f'(sample.offset=0); another order needs {_OWN_TIMES}.'
        )
