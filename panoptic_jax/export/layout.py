"""Where things lie in a samples folder: COCO's layout, and what the job keeps beside it.

`export/samples.py` says what each of them is.
"""

from typing import NamedTuple

from etils import epath


class Layout(NamedTuple):
    """The places of one set of pairs.

    Attributes:
      folder: The samples folder.
      name: The set's name, as COCO has 'train2017'.
    """

    folder: epath.Path
    name: str

    @property
    def images(self) -> epath.Path:
        """The folder of the images."""
        return self.folder / self.name

    @property
    def maps(self) -> epath.Path:
        """The folder of the panoptic PNGs."""
        return self.folder / 'annotations' / f'panoptic_{self.name}'

    @property
    def semantic(self) -> epath.Path:
        """The folder of the semantic PNGs."""
        return self.folder / f'semantic_{self.name}'

    @property
    def panoptic_list(self) -> epath.Path:
        """COCO's list of segments."""
        return self.folder / 'annotations' / f'panoptic_{self.name}.json'

    @property
    def instances_list(self) -> epath.Path:
        """COCO's list of things with their masks."""
        return self.folder / 'annotations' / f'instances_{self.name}.json'

    @property
    def captions_list(self) -> epath.Path:
        """COCO's list of captions."""
        return self.folder / 'annotations' / f'captions_{self.name}.json'

    @property
    def records(self) -> epath.Path:
        """A line for each pair, see `export/records.py`."""
        return self.folder / f'pairs_{self.name}.jsonl'

    @property
    def parts(self) -> epath.Path:
        """The folder of what is done while the job is at work."""
        return self.folder / 'parts'

    def picture_folders(self, has_maps: bool) -> list[epath.Path]:
        """The folders that have a picture for each pair."""
        return [self.images, self.maps, self.semantic] if has_maps else [self.images]
