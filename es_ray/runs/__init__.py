"""The run directory: layout, atomic writes, lock, recording, resume, replay."""
