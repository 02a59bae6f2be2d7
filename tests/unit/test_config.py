"""A conf file: what is written is read as the same, and what is wrong in one is named."""

import os
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ve import config
from ve.errors import BrokenConfig, Error, NotFound
from ve.model import Config, Mount
from ve.tomlfile import Broken
from ve.veid import VEID_MAX

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
LINE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}", fullmatch=True)
PARTS = st.text(st.characters(codec="utf-8", exclude_characters="\0/:"), min_size=1).filter(
    lambda part: part not in (".", "..")
)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
CONFIGS = st.builds(
    Config,
    veid=st.integers(1, VEID_MAX),
    template=st.builds("{}:{}".format, NAMES, st.integers(1, 999999999)),
    name=st.just("") | NAMES,
    hostname=st.just("") | st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){0,3}", fullmatch=True),
    description=LINE,
    onboot=st.booleans(),
    env=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), TEXT),
    mounts=st.lists(st.builds(Mount, PATHS, PATHS, st.booleans())).map(tuple),
    devices=st.lists(PATHS.map("/dev{}".format)).map(tuple),
)


def test_the_table_holds_every_field_but_the_veid() -> None:
    assert {"veid", *config.KEYS} == {field.name for field in fields(Config)}


@given(CONFIGS)
def test_what_is_written_is_read(asked: Config) -> None:
    assert config.parse(config.dump(asked), asked.veid, "") == asked


@given(st.binary() | st.text().map(str.encode))
def test_rubbish_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BrokenConfig, match=r"^cannot read conf: "):
        config.parse(data, 101, "conf")


VALUES = st.recursive(
    st.integers() | st.booleans() | st.text() | st.floats() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*config.KEYS]), VALUES))
def test_any_value_of_any_key_is_a_config_or_refused(table: dict[str, object]) -> None:
    try:
        found = config._config({"template": "a:1", **table}, 101)
    except Broken as error:
        assert "key " in str(error)
    else:
        assert isinstance(found, Config)


def test_a_file_reads_well(tmp_path: Path) -> None:
    asked = Config(101, "busybox:1", hostname="red", env={"LANG": "C"}, mounts=(Mount("/srv", "/var/www", True),))
    path = tmp_path / "101.toml"
    path.write_bytes(config.dump(asked))
    assert tomllib.loads(path.read_text()) == {
        "version": 1,
        "template": "busybox:1",
        "hostname": "red",
        "env": {"LANG": "C"},
        "mounts": ["/srv:/var/www:ro"],
    }
    assert config.load(path, 101) == asked


def test_no_file_is_no_ve(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"^cannot find VE 101: there is none$"):
        config.load(tmp_path / "101.toml", 101)


GOOD = "version = 1\ntemplate = 'a:1'\n"


@pytest.mark.parametrize(
    ("text", "why", "hint"),
    [
        (GOOD + "name = \n", "line 3: invalid value", ""),
        (GOOD + "name = 'x", 'line 3: expected "\'"', ""),
        (GOOD + "name = 'x'\nname = 'y'\n", "line 4: cannot overwrite a value", ""),
        ("template = 'a:1'\n", "key version: is missing", ""),
        ("\nversion = true\n", "line 2: key version: must be 1", ""),
        ("version = 2\n", "line 1: its version 2 is newer than this ve, which knows 1", "upgrade ve"),
        ("version = 1\n", "key template: is missing", ""),
        (GOOD + "hostnam = 'x'", "line 3: key hostnam: there is no such key", "did you mean hostname?"),
        (GOOD + "veid = 101", "line 3: key veid: there is no such key", "there are template, name, "),
        (GOOD + "[nam]\nx = 1", "line 3: key nam: there is no such key", "did you mean name?"),
        (GOOD + "hostname = 5", "line 3: key hostname: must be a string", ""),
        (GOOD + "\n# onboot\n  'onboot' = 1", "line 5: key onboot: must be true or false", ""),
        (GOOD + "onboot = 'yes'", "line 3: key onboot: must be true or false", ""),
        (GOOD + "mounts = '/a:/b'", "line 3: key mounts: must be an array of strings", ""),
        (GOOD + "mounts = ['/a:/b', 3]", "line 3: key mounts[1]: must be a string", ""),
        (GOOD + "mounts = [\n'/ax:/b',\n'x',]", "line 5: key mounts[1]: cannot use mount 'x': ", ""),
        (GOOD + "mounts = [\n'\\u0078']".replace("'", '"'), "line 3: key mounts[0]: cannot use mount 'x': ", ""),
        (GOOD + "devices = ['/etc/passwd']", "line 3: key devices[0]: cannot use device '/etc/passwd': ", ""),
        (GOOD + "env = ['A=B']", "line 3: key env: must be a table of strings", ""),
        (GOOD + "[env]\nAA = 'A'\nA = 1", "line 5: key env.A: must be a string", ""),
        (GOOD + "env.A = 1", "line 3: key env.A: must be a string", ""),
        (GOOD + "[env]\n'A B' = '1'", "line 4: key env.A B: cannot use environment variable 'A B': ", ""),
        (GOOD + "name = '101'", "line 3: key name: cannot use name '101': ", "63 characters"),
        (GOOD + "name = '../x'", "line 3: key name: cannot use name '../x': ", "63 characters"),
        ("version = 1\ntemplate = '../x:1'", "line 2: key template: cannot use template '../x:1': it is not NAME:", ""),
        ("a = " + "[" * 100_000, "", ""),
        ("version = " + "9" * 5000, "a number in it is too long", ""),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str, hint: str) -> None:
    with pytest.raises(BrokenConfig) as caught:
        config.parse(text.encode(), 101, "conf/101.toml")
    assert str(caught.value).startswith(f"cannot read conf/101.toml: {why}")
    assert caught.value.hint.startswith(hint)
    assert bool(hint) == bool(caught.value.hint)
    assert caught.value.exit_code == 14
    assert isinstance(caught.value, Error)


def test_what_is_not_utf8_names_its_line() -> None:
    with pytest.raises(BrokenConfig, match=r"^cannot read x: line 3: must be UTF-8$"):
        config.parse(GOOD.encode() + b"name = '\xff'", 101, "x")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkdir, "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
        (lambda path: os.symlink("nowhere", path), "it is a link that leads nowhere"),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links"),
        (lambda path: subprocess.run(["truncate", "-s", "1G", path], check=True), "it is longer than "),
    ],
)
def test_what_is_no_file_for_people_is_not_read(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    make(tmp_path / "101.toml")
    with pytest.raises(BrokenConfig, match=f"^cannot read {tmp_path}/101.toml: {why}"):
        config.load(tmp_path / "101.toml", 101)
