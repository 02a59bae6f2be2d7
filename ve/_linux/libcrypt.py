"""Binding to crypt(3): libcrypt is in every Debian, while Python's crypt module is gone from 3.13 on."""

import ctypes
import os

_DATA = 262144  # no struct crypt_data is larger: 32768 bytes in libxcrypt, 131232 in old glibc

_libcrypt = ctypes.CDLL("libcrypt.so.1", use_errno=True)
_libcrypt.crypt_r.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)
_libcrypt.crypt_r.restype = ctypes.c_char_p


def crypt(key: str, setting: str) -> str:
    """The hash of key, as in shadow(5), by the method and salt in setting, as in "$6$salt"; OSError if refused."""
    data = ctypes.create_string_buffer(_DATA)
    result: bytes | None = _libcrypt.crypt_r(os.fsencode(key), os.fsencode(setting), data)
    if result is None or result.startswith(b"*"):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result.decode("ascii")
