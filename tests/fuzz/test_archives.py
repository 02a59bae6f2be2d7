"""Sources of templates, each a valid one that was damaged: a template comes of it, or an error of ours; nothing else.

Of an image every document names the next by its digest, so what is behind the damaged one is made to agree.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import bounded, mutated
from ve.errors import BadArchive, Error, NotSupported
from ve.template import Template, Templates

pytestmark = pytest.mark.any_kernel

Make = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]  # from what may be damaged, the files of the source
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG, _MANIFEST = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.manifest.v1+json"


def tar(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            if form == tarfile.PAX_FORMAT and content:
                info.pax_headers = {"SCHILY.xattr.user.note": "x", "mtime": "1.5", "path": name}
            archive.addfile(info, io.BytesIO(content))
        if "bin/sh" in members:
            for kind, name in ((tarfile.SYMTYPE, "bin/ash"), (tarfile.LNKTYPE, "bin/bash")):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "bin/sh"
                archive.addfile(info)
    return text.getvalue()


ROOT = {
    "bin/": b"",
    "bin/sh": b"#!",
    "etc/": b"",
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
    "usr/": b"",
    "l" * 150: b"x",
}
ONE_LAYER = tar(ROOT)


def document(table: Any) -> bytes:
    return json.dumps(table).encode()


def described(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


CONFIG = document({
    "architecture": "amd64", "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": [described("", ONE_LAYER)["digest"]]},
    "config": {"User": "root", "Env": ["PATH=/bin", "A=b"], "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"],
               "WorkingDir": "/", "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}},
})  # fmt: skip


def layout(damaged: Mapping[str, bytes]) -> dict[str, bytes]:
    """An OCI image layout, of such of its documents as are given."""
    layer, config = damaged.get("layer", ONE_LAYER), damaged.get("config", CONFIG)
    if "layer" in damaged:
        config = config.replace(
            hashlib.sha256(ONE_LAYER).hexdigest().encode(), hashlib.sha256(layer).hexdigest().encode()
        )
    whole = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described(_CONFIG, config)}
    manifest = damaged.get("manifest", document(whole | {"layers": [described(_LAYER, layer)]}))
    index = damaged.get("index", document({"schemaVersion": 2, "manifests": [described(_MANIFEST, manifest)]}))
    blobs = {f"blobs/sha256/{hashlib.sha256(data).hexdigest()}": data for data in (layer, config, manifest)}
    return blobs | {"index.json": index, "oci-layout": damaged.get("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')}


def saved(damaged: Mapping[str, bytes]) -> dict[str, bytes]:
    """What `docker save` writes, as a tar."""
    manifest = document([{"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}])
    files = {"manifest.json": damaged.get("manifest", manifest), "config.json": damaged.get("config", CONFIG)}
    return {"": tar(files | {"layer.tar": damaged.get("layer", ONE_LAYER)}, tarfile.USTAR_FORMAT)}


def only(name: str, make: Callable[[Mapping[str, bytes]], dict[str, bytes]]) -> bytes:
    """The document of this name in an image that nobody has damaged."""
    files = layout({})
    named = {"index": files["index.json"], "oci-layout": files["oci-layout"], "config": CONFIG, "layer": ONE_LAYER}
    manifest = document([{"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}])
    digest = json.loads(named["index"])["manifests"][0]["digest"].partition(":")[2]
    return {**named, "manifest": manifest if make is saved else files[f"blobs/sha256/{digest}"]}[name]


KEYS: tuple[str, ...] = (
    "Config",
    "CONFIG",
    '"config": null, "config"',
    "Manifests",
    "Env",
    "env",
    "WorkingDir",
    "User",
    "A=b\\u0000",
    "=",
    "..",
)
KEYS += (
    "\\ud800",
    "\ud7ff",
    "1:2:3",
    "nobody",
    "4294967295",
    "-1:-1",
    "../../..",
    "sha256:",
    "sha512:",
    '{"a": 1}',
    '["a"]',
)
KEYS += ("0" * 11, "7" * 11, "ustar  ", "path=../../../../x\n", "27 linkpath=/etc/passwd\n", "GNU.sparse.size=9\n")
ROWS: dict[str, tuple[int, str, Callable[[Mapping[str, bytes]], dict[str, bytes]]]] = {
    **{f"layout, {name}": (12, name, layout) for name in ("index", "manifest", "config", "layer", "oci-layout")},
    **{f"docker save, {name}": (8, name, saved) for name in ("manifest", "config", "layer")},
    "a tar": (50, "layer", lambda damaged: {"": damaged.get("layer", ONE_LAYER)}),
}


def put(place: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = place / name if name else place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def tree(place: Path) -> set[tuple[str, int]]:
    return {(os.path.join(path, name), 0) for path, names, files in os.walk(place) for name in (*names, *files)}


@pytest.mark.parametrize("row", ROWS)
def test_a_source_that_is_damaged(row: str, tmp_path: Path) -> None:
    rounds, name, make = ROWS[row]
    store = Templates(str(tmp_path / "state/template"), lambda ref: ())
    (tmp_path / "victim").write_text("precious")
    assert store.add("whole", put(tmp_path / "source0", make({}))).init == ""
    numbers = iter(range(1, 1 << 30))

    @bounded(rounds)
    @given(mutated([only(name, make)], KEYS))
    def tried(data: bytes) -> None:
        source = put(tmp_path / f"source{next(numbers)}", make({name: data}))
        before = {path for path in tree(tmp_path) if "/state/" not in path[0]}
        try:
            made = store.add("damaged", source)
        except Error as error:
            assert isinstance(error, BadArchive | NotSupported), error
            assert "damaged" not in os.listdir(store.path)
        else:
            assert store.get(made.ref) == made
            store.remove(made.ref)
        assert {path for path in tree(tmp_path) if "/state/" not in path[0]} == before
        assert os.listdir(store.path) == ["whole"]

    tried()
    assert (tmp_path / "victim").read_text() == "precious"


def added(tmp_path: Path, config: bytes) -> Template:
    store = Templates(str(tmp_path / "state/template"), lambda ref: ())
    return store.add("web", put(tmp_path / "image", layout({"config": config})))


def with_keys(**keys: str) -> bytes:
    config = CONFIG
    for key, other in keys.items():
        config = config.replace(f'"{key}"'.encode(), f'"{other}"'.encode())
    return config


# What Go's JSON takes, by which skopeo and umoci are written, and what it makes of that: (its documentation, Unmarshal)
ODD_CONFIGS = {
    "another case": (with_keys(config="Config", Entrypoint="entrypoint", Cmd="CMD"), ("/bin/sh", "-c", "true")),
    "a Kelvin sign": (with_keys(Entrypoint="x", Cmd="y", WorkingDir="Wor\u212aingDir"), ()),
    "both": (CONFIG.replace(b'"Cmd"', b'"cmd": ["x"], "Entrypoint": ["/a"], "Cmd"'), ("/a", "-c", "true")),
    "null": (CONFIG.replace(b'"config"', b'"Config": null, "config"'), ("/bin/sh", "-c", "true")),
    "none": (with_keys(Entrypoint="Entry point", Cmd="Command"), ()),
    "nested": (
        CONFIG.replace(b'{"a": "b"}', b'{"a": "b"}, "z": ' + b"[" * 5000 + b"]" * 5000),
        ("/bin/sh", "-c", "true"),
    ),
    "a long number": (
        CONFIG.replace(b'{"a": "b"}', b'{"a": "b"}, "z": ' + b"9" * 5000),
        ("/bin/sh", "-c", "true"),
    ),
}


@pytest.mark.parametrize("odd", ODD_CONFIGS)
def test_what_others_read_is_read_alike(odd: str, tmp_path: Path) -> None:
    config, command = ODD_CONFIGS[odd]
    made = added(tmp_path, config)
    assert (made.command, made.env["A"]) == (command, "b")
    assert "TERM" not in made.env


def test_what_is_behind_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="configuration data: invalid character 'x' after top-level value"):
        added(tmp_path, CONFIG + b"x")
    assert os.listdir(tmp_path / "state/template") == []


@pytest.mark.parametrize(
    ("variable", "term"), [("TERM=vt100", "vt100"), ('B=\\"TERM=a', None), ('B= \\"TERM=a', None), ("XTERM=a", None)]
)
def test_a_terminal_of_its_own_is_kept(tmp_path: Path, variable: str, term: str | None) -> None:
    """Which umoci would make up if it had none."""
    for key in ("Env", "env"):
        made = added(tmp_path, with_keys(Env=key).replace(b"A=b", variable.encode()))
        assert made.env.get("TERM") == term
        shutil.rmtree(tmp_path / "image")


@bounded(15)
@given(st.data())
def test_keys_in_any_case(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """What they say is kept, or the image is refused: it is never a template that has lost its command."""

    def other_case(key: str) -> str:
        return "".join(data.draw(st.sampled_from([char.lower(), char.upper()])) for char in key)

    keys = ("config", "Entrypoint", "Cmd", "Env", "WorkingDir", "User", "rootfs", "diff_ids")
    made = added(tmp_path_factory.mktemp("image"), with_keys(**{key: other_case(key) for key in keys}))
    assert (made.command, made.env["A"], made.user) == (("/bin/sh", "-c", "true"), "b", "0:0")


def test_what_is_not_utf_8_is_what_others_make_of_it(tmp_path: Path) -> None:
    assert added(tmp_path, CONFIG.replace(b"A=b", b"A=\xff")).env["A"] == "\ufffd"
