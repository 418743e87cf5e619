"""The desk of ``explore``: see what the numbers mean, face by face, at any threshold."""

from dsrkit.desk.app import Desk, is_served
from dsrkit.desk.settings import Explore
from dsrkit.desk.stills import stills

__all__ = ["Desk", "Explore", "is_served", "stills"]
