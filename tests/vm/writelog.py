"""Every write and flush that a disk was asked for, in order: the log that QEMU's blklogwrites writes.

It is that of Linux's dm-log-writes: a sector of header (magic, version, entries, size of a sector), then for each entry
a sector (sector, sectors, flags, bytes of data) and, but for a discard, its data.  Numbers are little endian.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
_SUPER, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")


class Entry(NamedTuple):
    """data: what was written at this byte of the disk; None for a flush, which has everything before it on the disk."""

    at: int
    data: bytes | None


def options(image: Path, log: Path) -> tuple[str, ...]:
    """QEMU's, for a disk with a volatile cache whose writes are logged."""
    log.touch()
    name = image.stem
    node = f"driver=blklogwrites,node-name={name},file.driver=file,file.filename={image}"
    return (
        f"-blockdev {node},log.driver=file,log.filename={log}",
        f"-device virtio-blk-pci,drive={name},serial={name},write-cache=on",
    )


def entries(log: Path) -> Iterator[Entry]:
    """In their order.  What the disk was told to discard may be there or not, so is left as it is."""
    with log.open("rb") as file:
        magic, version, count, size = _SUPER.unpack_from(file.read(512))
        assert (magic, version) == (MAGIC, 1), log
        file.seek(size)
        for _ in range(count):
            sector, sectors, flags, _ = _ENTRY.unpack_from(file.read(size))
            if flags & DISCARD:
                continue
            if sectors:
                yield Entry(sector * size, file.read(sectors * size))
            if flags & (FLUSH | FUA):
                yield Entry(0, None)
