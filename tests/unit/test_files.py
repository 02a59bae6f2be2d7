"""What is refused before anything is touched."""

import pytest

from ve import files
from ve._linux import libcrypt
from ve.errors import InvalidValue

NOWHERE = files.Place(101)


@pytest.mark.parametrize("password", ["", "two\nlines", "nul\0", "x" * 600])
def test_bad_passwords(password: str) -> None:
    with pytest.raises(InvalidValue, match=r"^cannot set the password of 'root' in 101: "):
        files.set_password(NOWHERE, "root", password)


@pytest.mark.parametrize("user", ["", "a:b", "a\nb"])
def test_bad_users(user: str) -> None:
    with pytest.raises(InvalidValue, match="no name of a user"):
        files.set_password(NOWHERE, user, "word")
    with pytest.raises(InvalidValue, match="no name of a user"):
        files.add_ssh_key(NOWHERE, "", user)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 not*base64",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJfkNV4OS33ImTXvorZr72q4v5XhVEQKfvqsxOEJ/XaR of another type",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfkNV4OS33ImTXvorZr72q4v5XhVEQKfvqsxOEJ/XaR x\nssh-rsa second",
        'command="id" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfkNV4OS33ImTXvorZr72q4v5XhVEQKfvqsxOEJ/XaR',
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_what_is_no_public_key(key: str) -> None:
    with pytest.raises(InvalidValue, match="it is not a public key"):
        files.add_ssh_key(NOWHERE, key)


@pytest.mark.parametrize(("source", "target"), [("", "/x"), ("/x", ""), ("/x\0", "/x")])
def test_what_is_no_path(source: str, target: str) -> None:
    with pytest.raises(InvalidValue, match=r"is no path$"):
        files.copy_in(NOWHERE, source, target)


def test_the_hash_is_the_one_of_the_method() -> None:
    """The first example of the specification, SHA-crypt.txt."""
    assert libcrypt.crypt("Hello world!", "$6$saltstring") == (
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
    )
