"""Decode bytes to text: encodings, byte-order marks, line ends. Recognizes files that are not text."""

import codecs
import io
import unicodedata
from collections.abc import Iterator
from itertools import chain

from charrnn.errors import CharrnnError

HEAD = 8192  # first bytes of a file, to recognize its format
NEWLINES = ("universal", "keep")  # read CRLF and CR as line breaks, or keep them
LINE_ENDS = {"\r\n": "CRLF", "\r": "CR"}
BYTE_ORDER_MARKS = {  # UTF-32 first: its little-endian mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SAVE = "save it as plain text"
UNPACK = "unpack it and name the folder"
IMAGE = "it holds no text"
FORMATS = (  # offset in the file, bytes there, name of the format, advice
    (0, b"%PDF-", "a PDF file", "extract its text first, for example with pdftotext"),
    (0, b"\xd0\xcf\x11\xe0", "a Word, Excel or PowerPoint file", SAVE),
    (0, b"\x89PNG", "a PNG image", IMAGE),
    (0, b"\xff\xd8\xff", "a JPEG image", IMAGE),
    (0, b"GIF87a", "a GIF image", IMAGE),
    (0, b"GIF89a", "a GIF image", IMAGE),
    (0, b"II*\0", "a TIFF image", IMAGE),
    (0, b"MM\0*", "a TIFF image", IMAGE),
    (8, b"WEBPVP8", "a WebP image", IMAGE),
    (4, b"ftyphei", "a HEIC image", IMAGE),
    (0, b"\x1f\x8b\x08", "a gzip archive", "give it a name that ends in .gz"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", "give it a name that ends in .zst"),
    (0, b"BZh91AY&SY", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
)
ZIP = b"PK\3\4"
ZIPPED = (  # formats that are ZIP archives: bytes near the beginning, name, advice
    (b"word/", "a Word document", SAVE),
    (b"xl/", "an Excel workbook", "save it as CSV or plain text"),
    (b"ppt/", "a PowerPoint presentation", SAVE),
    (b"vnd.oasis.opendocument", "an OpenDocument file", SAVE),
    (b"epub+zip", "an EPUB book", SAVE),
    (ZIP, "a ZIP archive", UNPACK),
)
NO_TEXT = {"Cc", "Cn", "Co", "Cs"}  # Unicode categories that are rare in text,
CONTROLS = "\t\n\f\r"  # except these


class NotTextError(CharrnnError):
    """A file is not text in the encoding. `cure` is advice, `encoding` another encoding to try, if there is one."""

    def __init__(self, fault: str, cure: str, encoding: str = ""):
        super().__init__(f"{fault}; {cure}")
        self.fault = fault
        self.encoding = encoding


class WrongHeadError(NotTextError):
    """A file is not text, judged by its first bytes."""


class Decoder:
    """Decodes files in one of Python's text encodings, or "bytes". Raises: CharrnnError for any other encoding."""

    def __init__(self, encoding: str, newlines: str):
        self.encoding = encoding
        self.codec = find_codec(encoding)
        self.newlines = "keep" if encoding == "bytes" else newlines  # one of NEWLINES
        self.line_ends: set[str] = set()  # seen so far

    def check_head(self, head: bytes, name: str) -> None:
        """Raise WrongHeadError if a file that starts with `head` (HEAD bytes or all) is not text. `name` is for messages."""
        if self.encoding == "bytes":
            return
        if found := find_format(head):
            raise WrongHeadError(f"{name} is {found[0]}", cure=found[1])
        if self.codec.name != "utf-8" or b"\0" not in head or find_mark(head):
            return
        if wide := guess_wide_encoding(head):
            raise WrongHeadError(f"{name} is {wide} without a byte-order mark", f"--encoding {wide} reads it", wide)
        cure = "to learn its bytes: --encoding bytes"
        raise WrongHeadError(f"{name} holds NUL bytes, so it is not text", cure, "bytes")

    def decode(self, blocks: Iterator[bytes], name: str) -> Iterator[str]:
        """Decode the `blocks` of a file, of which the last is empty. Raises: NotTextError with the first bad byte."""
        head, blocks = _peek(blocks)
        self.check_head(head, name)
        encoding = (self.codec.name == "utf-8" and find_mark(head)) or self.encoding
        make_decoder = find_codec(encoding).incrementaldecoder
        assert make_decoder is not None
        decoder = make_decoder()
        line_ends = io.IncrementalNewlineDecoder(None, translate=True)
        done = 0  # bytes
        begun = waits = False  # whether there was any text; whether it ended with a CR, which may be half of a CRLF
        for block in blocks:
            waiting = len(decoder.getstate()[0])  # bytes of an incomplete character at the end of the last block
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeError as error:
                where = f" at byte {done - waiting + error.start}" if isinstance(error, UnicodeDecodeError) else ""
                guess = guess_narrow_encoding(block, self.codec.name)
                cure = "name its --encoding" + (f", perhaps {guess}" if guess else "")
                raise NotTextError(f"{name} is not {encoding}{where}", cure, guess or encoding) from None
            done += len(block)
            if self.newlines == "universal" and (waits or "\r" in text):  # most texts have none
                waits = text.endswith("\r") if text else waits
                text = line_ends.decode(text, final=not block)
            if text:
                yield text if begun else text.removeprefix("\ufeff")
                begun = True
        seen = line_ends.newlines or ()  # one string or several
        self.line_ends.update({seen} if isinstance(seen, str) else seen)

    def note(self) -> list[str]:
        """A note for the user if other line ends were read as line breaks."""
        found = [name for end, name in LINE_ENDS.items() if end in self.line_ends]
        return [f"its {' and '.join(found)} line ends are read as LF"] if found else []


def find_codec(encoding: str) -> codecs.CodecInfo:
    """The codec of a text encoding, or of "bytes". Raises: CharrnnError for any other encoding."""
    try:
        codec = codecs.lookup("latin-1" if encoding == "bytes" else encoding)
        io.TextIOWrapper(io.BytesIO(), codec.name)  # raises for codecs that don't decode to text
    except (LookupError, ValueError) as error:  # ValueError: a name with a NUL or a lone surrogate in it
        if "not a text encoding" in str(error):
            raise CharrnnError(f"{encoding} is not an encoding of text") from None
        raise CharrnnError(f"unknown encoding {encoding!r}; use one of Python's names, such as utf-8 or latin-1") from None
    if codec.incrementaldecoder is None or codec.name in ("idna", "punycode", "undefined"):
        raise CharrnnError(f"{encoding} is not an encoding of text")
    return codec


def _peek(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Returns: the first HEAD bytes of a file, and all its blocks."""
    first = [next(blocks)]
    while first[-1] and sum(map(len, first)) < HEAD:
        first.append(next(blocks))
    return b"".join(first)[:HEAD], chain(first, blocks)


def find_format(head: bytes) -> tuple[str, str] | None:
    """Recognize a known format that is not text. Returns: its name and advice; None if it is no known one."""
    if head.startswith(ZIP):
        return next((name, cure) for part, name, cure in ZIPPED if part in head)
    return next((found[2:] for found in FORMATS if head.startswith(found[1], found[0])), None)


def find_mark(head: bytes) -> str | None:
    """The encoding given by a byte-order mark, UTF-16 or UTF-32; None without one."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)


def guess_wide_encoding(head: bytes) -> str | None:
    """Recognize UTF-16 without a byte-order mark from `head`, which contains NUL bytes.

    >>> guess_wide_encoding("zażółć\\n".encode("utf-16-le")), guess_wide_encoding(bytes(range(256)))
    ('utf-16-le', None)
    """
    for name in ("utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(name)().decode(head)
        except UnicodeDecodeError:
            continue
        plain = all(c in CONTROLS or unicodedata.category(c) not in NO_TEXT for c in text)
        if plain and 2 * sum(c.isascii() for c in text) >= head.count(0):  # most NULs are halves of ASCII characters
            return name
    return None


def guess_narrow_encoding(block: bytes, tried: str) -> str:
    """Guess the encoding of a block of text, other than `tried`; empty if it does not look like text."""
    if not block or b"\0" in block:
        return ""
    for name in ("utf-8", "cp1252"):
        try:
            if name != tried:
                block.decode(name)
                return name
        except UnicodeDecodeError:
            pass
    return "latin-1"
