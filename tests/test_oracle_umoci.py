"""umoci, which applies layer after layer to a directory, as an oracle."""

from __future__ import annotations

from pathlib import Path

from tests import (
    model,
    test_semantics_attributes,
    test_semantics_directories,
    test_semantics_links,
    test_semantics_names,
    test_semantics_whiteouts,
)
from tests.cases import flatten_members
from tests.dsl import layer
from tests.engines import agreed, comparable, read_tree, together
from tests.listing import read_tar, short_listing
from tests.programs import need, need_root, run
from tests.writers import image, oci_layout

CASES = [
    *test_semantics_names.CASES,
    *test_semantics_whiteouts.CASES,
    *test_semantics_directories.CASES,
    *test_semantics_links.CASES,
    *test_semantics_attributes.CASES,
]
OTHERWISE = {
    "2-nothing-comes-back-below": "goes through a lower symlink (30)",
    "13-beside-an-implied": "keeps attributes across the whiteout (21)",
    "14-entries-below": "shows what lies below a marker",
    "14-an-opaque-marker": "shows what lies below a marker",
    "19-": "shows aufs' book-keeping",
    "20-device": "makes the device",
    "20-in-the-bottom": "makes the device",
    "20-creates": "makes the device",
    "21-after-a-file-in-between": "refuses an entry below a lower file (22)",
    "22-below-a-lower-file": "refuses",
    "22-deep-below": "goes through a lower symlink (30)",
    "27-trusted": "keeps trusted.*",
    "28-targets": "cannot make a target of 4,096 bytes",
    "29-over-a-symlink": "goes through a lower symlink (30)",
    "29-to-what-is-a-file-below": "refuses an entry below a lower file (22)",
    "30-usrmerge-without": "goes through a lower symlink",
    "31-": "goes through a lower symlink",
    "32-behind-all": "makes the device (20)",
    "32-target-through-an-absolute": "a target's absolute symlink, moved, leads elsewhere",
    "37-before-its-target-and": "refuses",
    "37-before-its-target-in": "refuses",
    "41-the-last": "the first header wins",
    "41-of-three": "the first header wins",
    "41-also": "the first header wins",
    "41-and-it": "the first header wins",
    "41-each": "the first header wins",
    "41-no-xattrs": "the kernel refuses the made-up capability",
    "41-a-links": "ignores a link's xattrs",
    "41-they": "refuses a link before its target",
    "42-a-directory-over-a-file": "the covered file has removed what lay below",
    "42-a-directory-over-a-link-to-nothing": "refuses",
    "42-a-file-over-a-link-to-nothing": "refuses",
    "42-a-symlink-over-a-link-to-nothing": "refuses",
    "45-extended": "loses empty xattrs",
    "45-security": "keeps no SELinux labels here",
    "46-device-numbers": "Linux has 12 and 20 bits",
}
AGREED = agreed(CASES, OTHERWISE)


def test_most_cases_are_compared() -> None:
    assert len(AGREED) > 130


def test_umoci_unpacks_what_we_flatten(tmp_path: Path) -> None:
    need_root()
    layers = together(AGREED)
    oci_layout(tmp_path / "image", image(*[layer(*members) for members in layers]))
    bundle = tmp_path / "bundle"
    run([need("umoci"), "unpack", "--image", f"{tmp_path}/image:example/app:1.0", bundle])
    theirs = short_listing(comparable(read_tree(bundle / "rootfs"), directory_times=False))
    ours = read_tar(flatten_members(layers))
    assert short_listing(comparable(ours, directory_times=False)) == theirs
    expected = model.nodes_of(model.flatten(layers))
    assert short_listing(comparable(expected, directory_times=False)) == theirs
