"""Which options go together. One that would have no effect is an error: who gives it means it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dimgx.console.targetname import is_template
from dimgx.console.terminal import is_stdout
from dimgx.errors import UsageError
from dimgx.platforms import ALL_PLATFORMS, parse_platform
from dimgx.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dimgx.console.targetname import TargetName

_SPELLINGS = {
    "force": "-w/-W",
    "sync": "--sync/--no-sync",
    "direct": "--direct/--no-direct",
    "compression": "a compression",
    "target": "-t",
    "layers": "-l",
    "reverse": "-r/-R",
    "strict": "-s/-S",
    "quiet": "-q/-Q",
    "paths": "--include and --exclude",
    "add_layers": "--add-layer",
    "tags": "--tag",
    "import_": "--import",
}
_REGISTRY = (
    "creds", "password_stdin", "authfile", "tls_verify", "cert_dir", "retry_time", "cache_dir",
    "cache_size",
)  # fmt: skip
_CHOSEN_LAYERS = ("layers", "reverse", "strict")
_CONTENT = ("paths", "strip_components", "prefix", "add_layers", "root_entry", "clamp_mtime")
_IMAGE = ("layer_compression", "tags", "squash_from", "keep_layers", "keep_images")
_FILE = ("compression", "compress_level", "update", "check", "format", "raw")
_BESIDE = ("write_config", "report")
_OF_A_RESULT = ("force", "sync", *_FILE, *_CONTENT, *_IMAGE, *_BESIDE)
_NOT_WITH_PLATFORMS = (
    "target", "load", "import_", *_CHOSEN_LAYERS, "json", "quiet", "threads", "direct",
    *_OF_A_RESULT,
)  # fmt: skip
_NOT_WITH_RAW = (*_CONTENT, "format", "update", "check", "report")
_NOT_WITH_KEEP_LAYERS = (*_CHOSEN_LAYERS, "squash_from", *_CONTENT)
_NOT_WITH_SQUASH_FROM = (*_CHOSEN_LAYERS, "paths", "strip_components", "prefix", "root_entry")
_NOT_WITH_CHECK = ("force", "sync", *_BESIDE)
_NOT_WITH_IMPORT = ("layer_compression", "squash_from", "keep_layers", "keep_images")
_OF_ONE = ("write_config", "raw")
_EXCLUSIVE = (
    ("creds", "authfile"),
    ("target", "load"),
    ("target", "import_"),
    ("load", "import_"),
    ("json", "quiet"),
    ("update", "check"),
    ("verbose", "log_level"),
)


def option(name: str) -> str:
    """Give how people write the option with the destination `name`."""
    return _SPELLINGS.get(name, "--" + name.replace("_", "-"))


def check_effects(said: dict[str, Any], target: TargetName | None) -> None:
    """See that every option that was said has an effect.

    Raises: UsageError naming one that has none.
    """
    _check_images(said)
    for one, other in _EXCLUSIVE:
        if said[one] is not None and said[other] is not None:
            raise UsageError(f"{option(one)} and {option(other)} exclude each other")
    for applies, names, where in _rules(said, target):
        if applies:
            _refuse(said, names, where)
    if said["password_stdin"] and (said["creds"] is None or ":" in said["creds"]):
        raise UsageError("--password-stdin goes with --creds USER, without a password there")
    if said["tags"]:
        from dimgx.images.resultnames import parse_names

        parse_names(said["tags"], None if target is None else target.layout_name)
    _check_stdout(said, target)
    _check_level(said, target)
    _check_several(said, target)


def _rules(
    said: dict[str, Any], target: TargetName | None
) -> tuple[tuple[object, Iterable[str], str], ...]:
    """Give what has no effect: where that is so, the options, and how it is told."""
    is_tar = target is not None and target.form == "tar"
    is_image = target is not None and target.form != "tar"
    is_handed_over = bool(said["load"] or said["import_"])
    has_result = target is not None or is_handed_over
    # What stands beside the result may be there already.
    is_beside = any(said[name] not in (None, "-") for name in _BESIDE)
    of_files = () if is_beside else ("force", "sync")
    is_remote = any(image.startswith("docker://") for image in said["images"])
    is_at_engine = any(parse_reference(image).is_at_engine for image in said["images"])
    keeps_coding = (
        said["keep_layers"] and not said["layer_compression"] and target and not target.compression
    )
    return (
        (not is_remote, _REGISTRY, "on an image that is not docker://"),
        (not is_at_engine, ("direct",), "on an image that is at no engine"),
        (said["platforms"], _NOT_WITH_PLATFORMS, "with --platforms"),
        (not has_result, _OF_A_RESULT, "without a target (-t)"),
        (has_result, ("json",), "with a target (-t)"),
        (is_handed_over, (*of_files, *_FILE, "keep_images"), "on what is handed to an engine"),
        (target and target.is_stdout, (*of_files, "update", "check"), "on standard output"),
        (is_tar, _IMAGE, "on a plain tar: choose the form of an image (--format)"),
        (is_image, ("root_entry",), "on the layer of an image"),
        (
            target and target.form == "docker-dir",
            ("tags",),
            "on docker-dir, which holds no names",
        ),
        (said["import_"], _NOT_WITH_IMPORT, "with --import, which takes one plain tar"),
        (said["raw"], _NOT_WITH_RAW, "with --raw"),
        (is_image, ("raw",), "on an image: it writes the tar of a layer"),
        (said["keep_layers"], _NOT_WITH_KEEP_LAYERS, "with --keep-layers"),
        (
            keeps_coding,
            ("compress_level",),
            "on layers that are kept: say how to store them, too (--layer-compression)",
        ),
        (said["squash_from"], _NOT_WITH_SQUASH_FROM, "with --squash-from"),
        (
            target and target.form != "oci-dir",
            ("keep_images",),
            "but in an OCI layout (oci:DIR)",
        ),
        (said["keep_images"], ("force", "update", "check"), "with --keep-images"),
        (said["check"], _NOT_WITH_CHECK, "with --check, which writes nothing"),
        (len(said["images"]) > 1, _OF_ONE, "on several images"),
        (_wants_platforms(said), ("platforms", *_OF_ONE), "on several platforms (--platform)"),
        (not said["layers"], ("strict",), "without a layer spec (-l)"),
    )


def _wants_platforms(said: dict[str, Any]) -> bool:
    """Tell whether an image is wanted for several platforms."""
    wanted = said["platform"] or ()
    return wanted == ALL_PLATFORMS or len(set(map(parse_platform, wanted))) > 1


def _check_images(said: dict[str, Any]) -> None:
    if said["origin"] is not None:
        others = set(said) - {"origin", "images", "log_level", "log_format", "verbose"}
        _refuse(said, sorted(others), "with --origin")
        if said["images"]:
            raise UsageError("--origin names a target, and goes without an image")
    elif not said["images"]:
        raise UsageError("name an image (dimgx -h shows the options)")


def _check_stdout(said: dict[str, Any], target: TargetName | None) -> None:
    """See that one thing at most goes to standard output."""
    beside = [(option(name), said[name]) for name in _BESIDE if said[name] is not None]
    shown = [f"{name} {path}" for name, path in beside if is_stdout(path)]
    if target is not None and is_stdout(target.path):
        shown.append("the result")
    elif said["load"] or said["import_"]:
        shown.append("the image's ID")
    if len(shown) > 1:
        raise UsageError(f"{shown[0]} and {shown[1]} would both go to standard output")


def _check_level(said: dict[str, Any], target: TargetName | None) -> None:
    """See that the level is one of what compresses: the file as a whole, or else the layers."""
    if said["compress_level"] is None or target is None:
        return
    from dimgx.encode import check_level
    from dimgx.targets.forms import usual_layer_compression

    compression = target.compression
    if compression is None and target.form != "tar":
        layers = said["layer_compression"] or usual_layer_compression(target.form)
        compression = None if layers == "none" else layers
    check_level(compression, said["compress_level"])


def _check_several(said: dict[str, Any], target: TargetName | None) -> None:
    """See that several images, or one for several platforms, have somewhere to go."""
    count, has_platforms = len(said["images"]), _wants_platforms(said)
    if count < 2 and not has_platforms:
        return
    if target is None and not said["load"] and not said["import_"]:
        several, hint = "several images", ""
        if has_platforms:
            several, hint = "several platforms", "; --platforms lists them"
        raise UsageError(f"{several} are not looked at at once: name one, or a target (-t){hint}")
    found = [parse_reference(text) for text in said["images"]]
    piped = sum(one.transport == "stdin" for one in found)
    if piped > (0 if said["password_stdin"] or has_platforms else 1):
        raise UsageError("standard input can be read once only")
    if has_platforms:
        from dimgx.flattening import is_pipe

        for path in filter(None, (one.path for one in found)):
            if is_pipe(path):
                raise UsageError(f"{path} is a pipe, which can be read once, for one platform only")
    if said["creds"] is not None:
        from dimgx.imagename import parse_image_name

        names = [one.name for one in found if one.transport == "docker" and one.name]
        hosts = dict.fromkeys(parse_image_name(name).domain for name in names)
        if len(hosts) > 1:  # a password is for one of them, and not for the others to see
            raise UsageError(
                f"--creds is for one registry, and the images are of {' and '.join(hosts)}:"
                " `podman login` and `docker login` keep what each wants"
            )
    is_layout = target is not None and target.form in ("oci-archive", "oci-dir")
    has_fields = target is not None and is_template(target.path)
    if said["tags"] and count > 1 and (has_fields or not is_layout):
        raise UsageError(
            "a name (--tag, or behind the target's path) is one image's, and there are several"
        )
    if is_layout or has_fields:
        return
    if has_platforms:
        place = "an engine" if target is None else f"one {target.form}"
        raise UsageError(
            f"several platforms do not go into {place}: oci-archive and oci-dir hold them, and a"
            " target such as '{name}-{platform}.tar' makes one for each"
        )
    if target is not None and target.form in ("tar", "docker-dir"):
        raise UsageError(
            f"{count} images do not go into one {target.form}: docker-archive, oci-archive and"
            " oci-dir hold several, and a target such as '{name}-{tag}.tar' makes one for each"
        )


def _refuse(said: dict[str, Any], names: Iterable[str], where: str) -> None:
    for name in names:
        if said[name] is not None:
            spelled = option(name)
            verb = "have" if " and " in spelled else "has"
            raise UsageError(f"{spelled} {verb} no effect {where}")
