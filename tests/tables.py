"""Pictures and tables for tests of data."""

import base64
import io
import struct
import zlib

from PIL import Image


def picture(size=(4, 3), color=(250, 10, 20), kind="PNG"):
    """Bytes of an image file."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format=kind)
    return file.getvalue()


def encoded(*arguments, **options):
    return base64.b64encode(picture(*arguments, **options)).decode()


def png_of_size(width, height):
    """A PNG that says how large it is and holds nothing."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def write_tsv(path, *rows, header=("image", "question", "answer"), end="\n"):
    """A table; a row that is text is written as it is."""
    path.write_bytes("".join(row if isinstance(row, str) else "\t".join(row) + end for row in (header, *rows)).encode())
    return path
