"""Made-up faces: ``traits`` says who and how, ``shape`` makes a head of it, ``paint`` colours it, ``portraits`` takes photos."""

from dsrkit.data.synthetic.portraits import face_names, render_faces

__all__ = ["face_names", "render_faces"]
