"""CLIP: loading, exact packed text encoding and image encoding; torch lives here."""
