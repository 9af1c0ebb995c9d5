"""Scenes that captionkit draws itself: described, drawn, captioned, and captions of them judged.

scene = random_scene(7)
draw(scene, 320).show()
captions(scene, seed=0)              # several true ones
judge("two red kites at sea", scene) # whether another is, and why not
"""

from captionkit.scenes.drawing import draw
from captionkit.scenes.folder import draw_folder
from captionkit.scenes.grammar import captions
from captionkit.scenes.scene import Scene, random_scene
from captionkit.scenes.truth import Verdict, judge

__all__ = ["Scene", "Verdict", "captions", "draw", "draw_folder", "judge", "random_scene"]
