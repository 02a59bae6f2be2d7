"""Names, reasons and tables of the templates room; no root needed."""

import inspect
import os
from pathlib import Path

import pytest

from ve import distributions, errors, staging
from ve.template import Template, Templates


def store(tmp_path: Path, users: tuple[int, ...] = ()) -> Templates:
    return Templates(str(tmp_path / "template"), lambda ref: users)


def put(tmp_path: Path, name: str, version: int, **changes: object) -> None:
    """A version as the store keeps it, written by hand."""
    (tmp_path / "template" / name / str(version)).mkdir(parents=True)
    facts = {
        "created": "2000-08-21T12:00:00Z",
        "source": "x",
        "init": "/sbin/init",
        "cwd": "/",
        "user": "0:0",
    } | changes
    lines = [f'{key} = "{value}"' for key, value in facts.items()] + ["version = 1", "command = []", "[env]", 'A = "b"']
    (tmp_path / "template" / name / f"{version}.toml").write_text("\n".join(lines))


def test_an_empty_store_lists_nothing_and_makes_nothing(tmp_path: Path) -> None:
    assert store(tmp_path).list() == []
    with pytest.raises(errors.TemplateNotFound) as caught:
        store(tmp_path).get("busybox")
    assert "ve template build busybox" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_name_is_its_newest_version_by_number_not_by_letter(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        put(tmp_path, "web", version)
    assert store(tmp_path).get("web").ref == "web:10"
    assert store(tmp_path).get("web:9").version == 9
    assert [template.ref for template in store(tmp_path).list()] == ["web:2", "web:9", "web:10"]
    assert store(tmp_path).get("web").env == {"A": "b"}


def test_a_wrong_name_hints_at_near_ones(tmp_path: Path) -> None:
    put(tmp_path, "busybox", 1)
    for ref, hint in (("busybux", "busybox"), ("busybox:2", "busybox:1"), ("zzz", "there is busybox")):
        with pytest.raises(errors.TemplateNotFound) as caught:
            store(tmp_path).get(ref)
        assert ref in str(caught.value) and hint in caught.value.hint
        with pytest.raises(errors.TemplateNotFound):
            store(tmp_path).remove(ref)


@pytest.mark.parametrize(
    "ref", ["", "../x", "a/b", "7", ".new-x", "a:", "a:x", "a:0", "a:01", "a:-1", "a:1:2", "a:\u0661"]
)
def test_what_cannot_be_a_reference_is_refused_before_the_disk_is_asked(tmp_path: Path, ref: str) -> None:
    for verb in (store(tmp_path).get, store(tmp_path).remove):
        with pytest.raises(errors.InvalidValue):
            verb(ref)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("", "not toml\n", "line 1: "),
        ("created", "made", "key created: is missing or of a wrong kind"),
        ('created = "2000-08-21T12:00:00Z"', "created = 7", "line 1: key created: is missing or of a wrong kind"),
        ("command = []", "command = [7]", "key command: must hold strings only"),
        ('A = "b"', "A = 7", "key env: must hold strings only"),
        ("command = []", f"command = {'[' * 3000}", ""),
        ("version = 1", "", "key version: is missing"),
        ("version = 1", "version = true", "line 6: key version: must be 1"),
        ("version = 1", "version = 2", "line 6: its version 2 is newer than this ve, which knows 1"),
    ],
)
def test_broken_metadata_names_the_file_and_what_is_wrong(tmp_path: Path, old: str, new: str, why: str) -> None:
    put(tmp_path, "web", 1)
    path = tmp_path / "template" / "web" / "1.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(errors.BrokenConfig) as broken:
        store(tmp_path).get("web")
    assert str(broken.value).startswith(f"cannot read {path}: ") and why in str(broken.value)


def test_a_vanished_tree_is_said_and_can_be_removed(tmp_path: Path) -> None:
    put(tmp_path, "web", 1)
    (tmp_path / "template" / "web" / "1").rmdir()
    with pytest.raises(errors.TemplateNotFound, match="gone"):
        store(tmp_path).get("web")
    assert store(tmp_path).list() == []
    store(tmp_path).remove("web:1")
    assert os.listdir(tmp_path / "template") == []


def test_a_version_in_use_stays_and_its_users_are_named(tmp_path: Path) -> None:
    put(tmp_path, "web", 1)
    with pytest.raises(errors.InUse, match=r"web:1: VEs 7, 101 use it"):
        store(tmp_path, (101, 7)).remove("web:1")
    assert store(tmp_path).get("web").version == 1


def test_removing_a_name_is_all_or_nothing(tmp_path: Path) -> None:
    for version in (1, 2):
        put(tmp_path, "web", version)
    templates = Templates(str(tmp_path / "template"), lambda ref: [101] if ref == "web:2" else [])
    with pytest.raises(errors.InUse, match="web:2: VE 101 uses it"):
        templates.remove("web")
    assert len(templates.list()) == 2
    store(tmp_path).remove("web")
    assert os.listdir(tmp_path / "template") == []


def test_hold_and_remove_exclude_each_other(tmp_path: Path) -> None:
    put(tmp_path, "web", 1)
    templates = store(tmp_path)
    with templates.hold("web") as one, templates.hold("web:1") as two:
        assert one == two
        with pytest.raises(errors.InUse, match="being created"):
            templates.remove("web")
    templates.remove("web")
    with pytest.raises(errors.TemplateNotFound), templates.hold("web"):
        pass


@pytest.mark.parametrize(
    ("talk", "sentence"),
    [
        (["bsdtar: Truncated tar archive"], "it ends too early"),
        (["warning", "a/../../b: Path contains '..': Unknown error -1"], "it holds a/../../b, which leads out"),
        (["\x1b[2J: Path contains '..': x"], r"it holds '\x1b[2J', which"),
        (["bsdtar: Removing leading '/' from member names"], "it holds absolute names"),
        (['time="x" level=warning msg="w"', 'time="x" level=fatal msg="no such image"'], "no such image"),
        (["I: start", "W: odd", "E: Unable to locate package nope", "E: failed"], "Unable to locate package nope"),
        (["bsdtar: something new {name}"], "something new {name}"),
        (["   \u2a2f create runtime bundle: no"], "create runtime bundle: no"),
        (["/usr/bin/cp: no"], "/usr/bin/cp: no"),
        ([], ""),
    ],
)
def test_a_program_s_talk_becomes_one_sentence(talk: list[str], sentence: str) -> None:
    assert staging.reason(talk).startswith(sentence)
    assert "\x1b" not in staging.reason(talk)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("gentoo", {}),
        ("busybox", {"suite": "bookworm"}),
        ("busybox", {"include": ["vim"]}),
        ("debian", {"suite": "../x"}),
        ("debian", {"suite": "--help"}),
        ("debian", {"include": ["vim,emacs"]}),
        ("debian", {"include": ["-x"]}),
        ("debian", {"name": "7"}),
    ],
)
def test_a_build_that_cannot_be_right_leaves_nothing(tmp_path: Path, kind: str, arguments: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidValue):
        store(tmp_path).build(kind, **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "template").exists() or os.listdir(tmp_path / "template") == []


def test_every_builder_has_the_same_face() -> None:
    for build in distributions.BUILDERS.values():
        assert list(inspect.signature(build).parameters) == ["staging", "suite", "include"]
        assert build.__doc__


def test_only_what_reaches_a_mirror_is_taken_from_the_host_s_apt() -> None:
    taken = distributions._APT_OPTION.fullmatch
    for line in ('Acquire::http::Proxy "http://p:1";', 'Acquire::Check-Valid-Until "false";', 'Acquire::Retries "3";'):
        assert taken(line)
    for line in ('APT::Update::Pre-Invoke:: "rm -rf /";', 'Acquire::IndexTargets "";', 'DPkg::Post-Invoke "x";'):
        assert not taken(line)


def test_ref() -> None:
    assert Template("web", 3, "/x", "", "").ref == "web:3"
