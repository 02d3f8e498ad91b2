"""Models behind the engine's port: CLIP by open_clip, and a stub for tests."""
