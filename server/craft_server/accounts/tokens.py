"""What an API key looks like: minted, checked for typing errors, digested.

    craft_ + 43 base62 characters (256 bits of chance) + 6 base62 digits (CRC-32 of all before)

A token is shown once and only its SHA-256 is stored, which is enough since a token cannot be
guessed. The checksum stops typing errors, and scans for leaked keys, without asking the store.
"""

import hashlib
import secrets
import string
import zlib

PREFIX = "craft_"
SECRET_CHARS = 43
CHECKSUM_CHARS = 6
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase


def mint_token() -> str:
    """A token nobody has seen."""
    secret = "".join(secrets.choice(BASE62) for _ in range(SECRET_CHARS))
    return PREFIX + secret + checksum(PREFIX + secret)


def checksum(text: str) -> str:
    """CRC-32 of ASCII text as 6 base62 digits, most significant first."""
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, len(BASE62))
        digits = BASE62[digit] + digits
    return digits


def checksum_fits(token: str) -> bool:
    """Whether a string can be a token at all."""
    body, check = token[:-CHECKSUM_CHARS], token[-CHECKSUM_CHARS:]
    length = len(PREFIX) + SECRET_CHARS + CHECKSUM_CHARS
    shaped = len(token) == length and token.startswith(PREFIX) and token.isascii()
    return shaped and checksum(body) == check


def digest(token: str) -> str:
    """SHA-256 in hex: what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
