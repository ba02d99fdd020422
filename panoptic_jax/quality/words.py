"""From the words of a caption to the categories that it names.

    {"couch": ["sofa", "loveseat"], "wall-brick": ["brick wall", "wall"], "": ["orange shirt"]}

A file of synonyms is JSON: each category with what people call it, in the singular. A phrase under
several categories may stand for any of them. What stands under "" names no category, such as a
colour that is a fruit elsewhere. The names of the categories always count. `synonyms.json` is the
package's own file, made for COCO's 133 categories; other data use what it says of names they share.
"""

import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from panoptic_jax.data import checked_json, scene_words
from panoptic_jax.data.category_captions import spoken
from panoptic_jax.data.example import Category

Phrase = tuple[str, ...]
Synonyms = Mapping[str, Sequence[str]]

_FORM = 'it must be {"name of a category": ["what people call it", ...]}'
_IRREGULAR = {
    'person': 'people', 'man': 'men', 'woman': 'women', 'child': 'children', 'foot': 'feet',
    'tooth': 'teeth', 'mouse': 'mice', 'goose': 'geese', 'calf': 'calves', 'knife': 'knives',
    'shelf': 'shelves', 'loaf': 'loaves', 'leaf': 'leaves', 'half': 'halves', 'scarf': 'scarves',
    'sheep': 'sheep', 'skis': 'skis', 'scissors': 'scissors', 'bus': 'buses', 'elk': 'elk',
}  # fmt: skip


class Vocabulary(NamedTuple):
    """Phrases and what they stand for.

    Attributes:
      phrases: {words: the categories any of which they may stand for}; the empty set for words that
        name none.
      longest: Words of the longest phrase.
    """

    phrases: Mapping[Phrase, frozenset[int]]
    longest: int

    def named(self, caption: str) -> list[frozenset[int]]:
        """What a caption names, each once, in its order: sets of ids, of which any will do.

        The longest phrase wins at each word, so that 'a hot dog' names no dog.
        """
        tokens = words_of(caption)
        found: dict[frozenset[int], None] = {}  # in the caption's order
        at = 0
        while at < len(tokens):
            for length in range(min(self.longest, len(tokens) - at), 0, -1):
                ids = self.phrases.get(tokens[at : at + length])
                if ids is not None:
                    found[ids] = None
                    at += length
                    break
            else:
                at += 1
        return [ids for ids in found if ids]


def words_of(text: str) -> Phrase:
    """The words of a text in small letters, without the 's of "the dog's".

    Hyphens and underlines separate words, as in names of categories.
    """
    plain = re.sub(r"['’]s\b", '', text.casefold())
    return tuple(re.findall(r'[^\W_]+', plain))


def plural(noun: str) -> str:
    """The word for several things; what is no English noun gets an s, which does no harm."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    for ending in ('man', 'woman', 'child'):  # 'fireman'
        if noun.endswith(ending):
            return noun.removesuffix(ending) + _IRREGULAR[ending]
    if re.search(r'(s|x|z|ch|sh)$', noun):
        return noun + 'es'
    if re.search(r'[^aeiou]y$', noun):
        return noun[:-1] + 'ies'
    return noun + 's'


def vocabulary(phrases: Mapping[int, Iterable[str]], nothing: Iterable[str] = ()) -> Vocabulary:
    """A vocabulary of {category id: its phrases in the singular}, plurals added.

    Args:
      phrases: What each category is called.
      nothing: Phrases that name no category.
    """
    meanings: dict[Phrase, set[int]] = {}
    for ids, texts in [(set(), nothing), *(({number}, each) for number, each in phrases.items())]:
        for text in texts:
            *first, last = words_of(text) or ('',)
            for noun in {last, plural(last)}:
                if noun:
                    meanings.setdefault((*first, noun), set()).update(ids)
    return Vocabulary(
        {phrase: frozenset(ids) for phrase, ids in meanings.items()},
        longest=max(map(len, meanings), default=0),
    )


def vocabulary_of(
    categories: Sequence[Category], *, is_scenes: bool = False, path: str = ''
) -> Vocabulary:
    """The vocabulary of a data set: names and synonyms.

    Args:
      categories: The categories; several may share a name.
      is_scenes: Whether they are the embedded scenes, whose captions have words of their own.
      path: The user's file, in the place of the package's own words; '' for none.

    Raises:
      FileNotFoundError, ValueError: the errors of `read`.
    """
    if is_scenes and not path:
        return vocabulary(_scene_phrases())
    # 'sky' of other data is what COCO calls 'sky-other-merged'.
    synonyms = {_plain(name): texts for name, texts in _synonyms(categories, path).items()}
    return vocabulary(
        {
            category.id: [
                category.name,
                spoken(category.name),
                *synonyms.get(_plain(category.name), ()),
            ]
            for category in categories
        },
        synonyms.get('', ()),
    )


def _plain(name: str) -> str:
    """A category's name as it is compared."""
    return ' '.join(words_of(spoken(name)))


def _synonyms(categories: Sequence[Category], path: str) -> Synonyms:
    if path:
        return read(path, [category.name for category in categories])
    own = importlib.resources.files('panoptic_jax.quality') / 'synonyms.json'
    return json.loads(own.read_text(encoding='utf-8'))


def read(path: str, names: Sequence[str], setting: str = 'evaluate.synonyms') -> Synonyms:
    """A user's file of synonyms.

    Args:
      path: The file, JSON.
      names: The names of the data's categories.
      setting: The setting that names the file, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not of this form, or names a category that the data lack.
    """
    fix = f"{setting} names it: correct the path, or leave it empty for the package's own words"
    synonyms, _ = checked_json.read(
        epath.Path(path), dict[str, list[str]], words={'': _FORM}, fix=fix
    )
    known = {_plain(name) for name in names} | {''}
    foreign = [name for name in synonyms if _plain(name) not in known]
    if foreign:
        raise ValueError(
            f'{path} has synonyms of {foreign[0]!r}, a category that the data lack; theirs are: '
            f'{", ".join(names)}.'
        )
    return synonyms


def _scene_phrases() -> dict[int, list[str]]:
    """What the scenes' captions call each category."""
    phrases = {**scene_words.THINGS, **scene_words.ABOVE, **scene_words.BELOW}
    for number, name in scene_words.STUFF_NAMES.items():
        phrases[number] = (*phrases[number], name)
    # Captions say 'a wall'; the article is no part of the name.
    return {
        number: [re.sub('^an? ', '', text) for text in texts] for number, texts in phrases.items()
    }
