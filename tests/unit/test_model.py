"""A value that cannot be right is refused where it is made."""

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ve.errors import InvalidValue
from ve.model import Config, Mount, check_hostname, check_template
from ve.options import parsed
from ve.veid import VEID_MAX, check_name, check_veid, veid_named


@pytest.mark.parametrize("veid", [0, -1, VEID_MAX + 1, 2**64])
def test_veids_out_of_range(veid: int) -> None:
    with pytest.raises(InvalidValue, match=rf"^cannot use VEID {veid}: it is not in 1\.\.2147483644$"):
        check_veid(veid)


@pytest.mark.parametrize("veid", ["101", "", None, 1.0, True, False])
def test_veids_that_are_no_numbers(veid: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^cannot use VEID .*: it is not an int$"):
        check_veid(veid)


def test_veids_at_the_edges() -> None:
    assert (check_veid(1), check_veid(VEID_MAX)) == (1, VEID_MAX)


def test_files_that_are_called_after_a_veid() -> None:
    assert (veid_named("101"), veid_named(str(VEID_MAX)), veid_named("101.toml", ".toml")) == (101, VEID_MAX, 101)


@pytest.mark.parametrize(
    "name", ["", "0", "01", "-1", "1_0", " 1", "1\n", "٣", "101.toml", str(VEID_MAX + 1), "9" * 5000]
)
def test_files_that_are_not(name: str) -> None:
    assert veid_named(name) is None and veid_named(f"{name}.new", ".toml") is None


@pytest.mark.parametrize("name", ["", "1", "1a", "-a", ".a", "a/b", "..", "a b", "a\n", "ä", "a" * 64, "a:1"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidValue):
        check_name(name)


@given(st.text())
def test_a_name_is_never_a_number_a_path_or_hidden(name: str) -> None:
    try:
        check_name(name)
    except InvalidValue:
        return
    assert name and "/" not in name and not name[0].isdigit() and name[0] not in ".-" and name.isascii()


@pytest.mark.parametrize("name", ["a", "_", "web-1.example_x", "a" * 63])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("ref", ["a", "a:", ":1", "a:0", "a:01", "a:x", "a:1:2", "../a:1", "a:-1", "a:1\n"])
def test_template_references_that_are_none(ref: str) -> None:
    with pytest.raises(InvalidValue):
        check_template(ref)


@pytest.mark.parametrize("hostname", ["", "-a", "a-", "a..b", ".a", "a_b", "a" * 64, "a b", "a.b\n", "a." * 32 + "ab"])
def test_hostnames_that_are_none(hostname: str) -> None:
    with pytest.raises(InvalidValue):
        check_hostname(hostname)


@pytest.mark.parametrize("hostname", ["a", "7", "web-1.example.org", "a" * 63])
def test_hostnames(hostname: str) -> None:
    assert check_hostname(hostname) == hostname


@pytest.mark.parametrize(
    "text",
    ["", "/a", "a:/b", "/a:b", "/a:/b:rx", "/a:/b:ro:x", "/a:/", "/a://", "/a:/.", "/a:/b/../c", "/a:/..", "/a\0:/b"],
)
def test_mounts_that_are_none(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"^cannot use mount "):
        Mount.parse(text)


@pytest.mark.parametrize(
    ("source", "target"), [("/a:b", "/c"), ("a", "/b"), ("/a", "/b:ro"), ("/a", "/"), ("/a", "/\ud800")]
)
def test_a_mount_that_its_text_could_not_say(source: str, target: str) -> None:
    with pytest.raises(InvalidValue):
        Mount(source, target)


@pytest.mark.parametrize("text", ["/a:/b", "/a:/b:ro", "/:/b", "/a:/...", "/a b:/c d"])
def test_a_mount_is_its_text(text: str) -> None:
    assert str(Mount.parse(text)) == text


def test_read_write_is_the_default() -> None:
    assert Mount.parse("/a:/b:rw") == Mount.parse("/a:/b") == Mount("/a", "/b", False)
    assert Mount.parse("/a:/b:ro").read_only


@pytest.mark.parametrize(
    "wrong",
    [
        {"veid": 0},
        {"template": "busybox"},
        {"name": "101"},
        {"hostname": "a_b"},
        {"network": "brigde:br0"},
        {"network": "ve:2147483645"},
        {"description": "two\nlines"},
        {"description": "bell\a"},
        {"description": "\ud800"},
        {"env": {"A=": "b"}},
        {"env": {"": "b"}},
        {"env": {"A": "b\0"}},
        {"env": {"A": "\udcff"}},
        {"devices": ("/etc/passwd",)},
        {"devices": ("/dev/../etc/passwd",)},
    ],
)
def test_a_config_holds_what_can_be_right(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidValue):
        Config(**{"veid": 101, "template": "a:1", **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"profiles": "docker"},
        {"devices": "/dev/fuse"},
        {"mounts": "/a:/b"},
        {"capabilities": ["net_admin"]},
        {"env": "A=b"},
    ],
    ids=str,
)
def test_one_string_is_no_list_of_them(options: dict[str, Any]) -> None:
    """Or each of its letters would be taken for one."""
    with pytest.raises(InvalidValue, match=next(iter(options))):
        parsed(options, int)


def test_any_iterable_or_mapping_will_do() -> None:
    options = {
        "profiles": iter(["fuse"]),
        "mounts": ["/a:/b:ro", Mount("/c", "/d")],
        "env": MappingProxyType({"A": "b"}),
    }
    wanted = {"profiles": ("fuse",), "mounts": (Mount("/a", "/b", True), Mount("/c", "/d")), "env": {"A": "b"}}
    assert parsed(options, int) == wanted


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("onboot", "no", "True or False"),
        ("onboot", 1, "True or False"),
        ("account_only", "no", "True or False"),
        ("user_beancounters", None, "True or False"),
        ("template", 5, "a string"),
        ("name", 5, "a string"),
        ("hostname", 5, "a string"),
        ("description", b"red", "a string"),
        ("area", ["loop"], "a string"),
        ("network", None, "a string"),
        ("rate", 5, "a string"),
    ],
)
def test_what_no_conf_file_can_say_is_refused_when_it_is_made(name: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidValue, match=f"^cannot use {name} .*: it is not {why}$"):
        Config(**{"veid": 101, "template": "a:1", name: value})
