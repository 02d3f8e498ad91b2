"""The only folder that imports torch or open_clip: loading, the text encoder, the image encoder."""
