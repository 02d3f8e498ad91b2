"""Images of owners: decoding, admission, bytes by content and image sets."""
