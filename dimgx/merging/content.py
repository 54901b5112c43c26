"""What of the merged tree goes out, and under which names: path rules, then renaming. Pure.

It changes the plan between the merge and the hard links: a link whose first name is left out
becomes the file, and one of a renamed file leads to the new name, by the rules for links alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from dimgx.layers.layerindex import ADD_SLASH, RESIZE, REWRITE, STRIP_LEAD, LayerIndex
from dimgx.merging.leftout import LeftOut
from dimgx.merging.merged import Merged
from dimgx.merging.pathrules import PathFilter, PathRule
from dimgx.merging.plan import NEW
from dimgx.merging.renaming import Renaming


class Content:
    """A change of the merged tree, made once.

    Raises: UsageError for a rule, a number or a prefix that makes no sense.
    """

    def __init__(
        self, rules: Sequence[PathRule], strip_components: int = 0, prefix: str | None = None
    ) -> None:
        self._filter = PathFilter(rules) if rules else None
        self._renaming = Renaming.of(strip_components, prefix)
        self.added = LayerIndex()
        """The prefix's directories, as a layer below all others."""
        self.added.implied = self._renaming.prefix_directories()
        self.added_tar = b""
        """The tar of that."""

    def change(self, merged: Merged) -> LeftOut:
        """Change the tree, and give what is missing of it then.

        Raises: ImageError where nothing is left, an include matches nothing, or two entries get
            one name.
        """
        before = merged.numbers
        gone: list[int] = []
        warnings: tuple[str, ...] = ()
        if self._filter is not None:
            keys = merged.list_keys()
            chosen = self._filter.choose(keys)
            warnings = self._filter.find_warnings(keys)
            gone = list(compress(before, (not is_chosen for is_chosen in chosen)))
            merged.numbers = list(compress(before, chosen))
        staying, names = merged.numbers, list[bytes]()
        if self._renaming:
            keys = merged.list_keys()
            implied = [merged.codes[number] == NEW for number in staying]
            merged.numbers, names = self._renaming.apply(staying, keys, is_implied=implied)
            # A directory that lost its name is no loss to who points at what is in it.
            stayed = set(merged.numbers)
            gone += [
                number
                for number, key in zip(staying, keys, strict=True)
                if number not in stayed and not key.endswith(b"\0")
            ]
        left_out = LeftOut(before, gone, merged, warnings)
        if self._renaming:
            _rename(merged, names)
        first = merged.add(self.added) + 1
        merged.numbers[:0] = range(first, first + len(self.added.implied))
        return left_out


def _rename(merged: Merged, names: Sequence[bytes]) -> None:
    for number, key in zip(merged.numbers, names, strict=True):
        merged.keys[number] = key
        if merged.codes[number] < REWRITE:
            merged.codes[number] = RESIZE | (merged.codes[number] & ~(STRIP_LEAD | ADD_SLASH))
    merged.names = dict(zip(merged.numbers, names, strict=True))
