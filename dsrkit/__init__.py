"""dsrkit: recognise faces of very low resolution. Restore with DSR, recognise with EdgeFace, evaluate honestly."""

__version__ = "0.1.0"
