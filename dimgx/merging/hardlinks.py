"""Hard links in the merged tree: which name carries an inode's content, and what the others say.

1. An inode is named by the member that carries its content, its *carrier*. A link in any layer to
   a lower layer's file is a name of the lower layer's inode (rule 36).
2. Of the names that survive, the first in the order of the walk carries the content in the output;
   the others are links to it (rules 33-35).
3. The inode's attributes are those of the last header applied, base layer first, hidden or not; its
   xattrs are added up (rule 41).
4. Where all headers agree and the carrier comes first, its header and theirs go out as they are.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable

from dimgx.errors import ImageError
from dimgx.layers.names import name_of, path_of
from dimgx.layers.tarfields import show
from dimgx.merging.merged import Merged
from dimgx.merging.plan import NEW, Plan, Written

_LINKED, _MARK = 0x80, re.compile(rb"[\x80-\xff]")


def find_inodes(
    merged: Merged, find_below: Callable[[bytes, int], int | None]
) -> dict[int, list[int]]:
    """Find out what each hard link names: give the links by their carriers.

    `find_below(key, depth)` gives the number of a non-directory in the tree below a layer. Links
    are in the order of application.

    Raises: ImageError for a hard link to nothing.
    """
    bases, links = merged.bases, merged.links
    carriers: dict[int, int] = {}
    # Lower layers must be known before those above.
    in_order = _order_of(bases)
    for number in sorted(links, key=in_order):
        depth = bisect_right(bases, number) - 1
        passed: dict[int, None] = {}
        at = number
        while at in links and at not in carriers:
            if at in passed:
                raise _dangling(merged, at, "in a loop")
            passed[at] = None
            link = links[at]
            if link.member is not None:
                at = bases[depth] + link.member
                continue
            below = find_below(link.target, depth)
            if below is not None:
                at = carriers.get(below, below)
                break
            if link.following is None:
                if not merged.keys[at]:
                    break  # it is no entry: its own layer has put another in its place
                raise _dangling(merged, at, "which is nowhere")
            at = bases[depth] + link.following
        carrier = carriers.get(at, at)
        carriers.update(dict.fromkeys(passed, carrier))
    inodes: dict[int, list[int]] = {}
    for number, carrier in carriers.items():
        inodes.setdefault(carrier, []).append(number)
    for numbers in inodes.values():
        numbers.sort(key=in_order)
    return inodes


def plan_tree(merged: Merged) -> Plan:
    """Decide how what survives is written, the names of linked inodes too."""
    plan = Plan(merged.numbers, merged.bases, merged.names)
    codes, inodes = merged.codes, merged.inodes
    linked = {number for numbers in inodes.values() for number in numbers}
    linked.update(inodes)
    # One pass puts the codes in order and finds the places of what is linked.
    for number in linked:
        codes[number] |= _LINKED
    in_order = bytearray(map(codes.__getitem__, plan.numbers))
    marks = [mark.start() for mark in _MARK.finditer(in_order)]
    places = {plan.numbers[place]: place for place in marks}
    for number in linked:
        codes[number] &= ~_LINKED
    for carrier, numbers in inodes.items():
        names = sorted(
            (number for number in (carrier, *numbers) if number in places),
            key=places.__getitem__,
        )
        if names:
            _settle_inode(plan, merged, carrier, names)
    for number, place in places.items():
        in_order[place] = NEW if number in plan.written else codes[number]
    plan.codes = bytes(in_order)
    return plan


def _order_of(bases: list[int]) -> Callable[[int], tuple[int, int]]:
    """Give the key that sorts numbers as members are applied: larger ones are of lower layers."""
    return lambda number: (-bisect_right(bases, number), number)


def _dangling(merged: Merged, number: int, why: str) -> ImageError:
    count = len(merged.bases)
    layer = count + 1 - bisect_right(merged.bases, number)
    name, target = path_of(merged.keys[number]), path_of(merged.links[number].target)
    return ImageError(
        f"layer {layer}/{count}: {show(name)} is a hard link to {show(target)}, {why}"
    )


def _settle_inode(plan: Plan, merged: Merged, carrier: int, names: list[int]) -> None:
    """Say how those names of an inode go out that survive, in their order."""
    keys, links, numbers = merged.keys, merged.links, merged.inodes[carrier]
    first = names[0]
    agreed = all(links[number].is_same for number in numbers)
    if agreed and first == carrier:
        for number in names[1:]:
            link = links[number]
            if not link.is_bare or link.spelled != name_of(keys[carrier]):
                plan.written[number] = Written(carrier, None, keys[carrier])
        return
    attributes = carrier if agreed else max((carrier, *numbers), key=_order_of(plan.bases))
    added = () if agreed else tuple(numbers)
    plan.written[first] = Written(attributes, carrier, b"", added)
    for number in names[1:]:
        plan.written[number] = Written(attributes, None, keys[first])
