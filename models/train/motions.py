"""Motions: verbs, and the paths of subject and camera that they stand for.

A path is a place per latent frame in steps of 8 pixels. `builtin/soragen.json` gets this table (`export.py`), and the engine
follows it, so a change here is a change of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

WALK, RUN = 8, 16  # speeds in pixels per latent frame; the decoder blurs what moves faster
CROSS, CAMERA_PAN = 16, 16  # of what comes past, and of the camera
FOLLOWED = 32  # of the camera that follows what runs: a token per latent frame, or its layers would be copied unsharp


@dataclass(frozen=True)
class Motion:
    """Movements per latent frame in pixels; `dx` is in the direction that the subject faces, `dy` downwards. The lists repeat."""

    verbs: dict[str, tuple[str, ...]]  # by element, "*" for all others; {dir} becomes the direction or is removed
    dx: tuple[int, ...] = (0,)
    dy: tuple[int, ...] = (0,)
    # Pixels per latent frame, in the direction that the subject faces, if the camera follows it; the subject then keeps its place.
    camera: int = 0
    turn: int = 0  # latent frames after which the subject turns round; 0: never
    # Only the engine knows these, captions do not have them: more verbs, and what decides whatever the verb is.
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)
    adverbs: tuple[str, ...] = ()

    def followed(self) -> Motion:
        """The motion as a camera shows it that follows the subject."""
        return replace(self, dx=(0,), turn=0) if self.camera else self

    def place(self, frame: int, facing: int) -> tuple[int, int, int]:
        """x, y in pixels relative to the first place, and the facing at a latent frame."""
        x, now = 0, facing
        for i in range(frame):
            if self.turn and i and i % self.turn == 0:
                now = -now
            x += now * self.dx[i % len(self.dx)]
        if self.turn and frame and frame % self.turn == 0:
            now = -now
        return x, sum(self.dy[i % len(self.dy)] for i in range(frame)), now


MOTIONS = {
    "run": Motion({
        "land": ("runs{dir}", "is running{dir}", "races{dir}", "hurries{dir}"),
        "road": ("drives{dir}", "is driving{dir}", "races{dir}", "speeds{dir}"),
        "air": ("flies{dir}", "is flying{dir}", "soars{dir}"),
        "water": ("swims fast{dir}", "races{dir}", "speeds{dir}"),
        "space": ("flies{dir}", "is flying{dir}", "races{dir}"),
    }, dx=(RUN,), turn=12, camera=FOLLOWED, also={
        "land": ("gallops", "sprints", "jogs", "dashes", "charges", "bolts", "ran", "skis"),
        "road": ("rides", "drove"),
        "air": ("flew", "flaps its wings"),
        "water": ("dives",),
        "space": ("flew",),
        "*": ("rushes", "zooms", "chases", "flees", "escapes", "races", "speeds"),
    }),
    "walk": Motion({
        "land": ("walks{dir}", "is walking{dir}", "wanders{dir}", "goes{dir}"),
        "road": ("rolls{dir}", "drives slowly{dir}", "goes{dir}"),
        "air": ("glides{dir}", "drifts{dir}", "flies slowly{dir}"),
        "water": ("swims{dir}", "is swimming{dir}", "glides{dir}", "travels{dir}"),
        "space": ("drifts{dir}", "travels{dir}", "flies slowly{dir}"),
    }, dx=(WALK,), turn=24, camera=CAMERA_PAN, also={
        "land": ("strolls", "trots", "hikes", "marches", "crawls", "creeps", "steps", "tiptoes", "waddles", "roams", "climbs", "went", "skates"),
        "road": ("cruises",),
        "air": ("floats along", "sails"),
        "water": ("sails", "rows", "paddles", "cruises", "surfs", "drifts", "floats along", "swam"),
        "*": ("slides", "moves", "travels", "heads", "rides", "goes", "drifts"),
    }),
    "cross": Motion({"*": ("crosses the picture{dir}", "passes by{dir}", "moves across{dir}", "comes past{dir}")}, dx=(CROSS,),
                    also={"*": ("crosses", "passes", "enters", "comes", "appears")}),
    "jump": Motion({"*": ("jumps", "jumps up and down", "hops", "is jumping", "bounces")}, dy=(-16, -16, 16, 16), also={"*": ("leaps", "skips")}),
    "stand": Motion({"*": ("stands still", "rests", "waits", "is waiting", "stays in one place")},
                    also={"*": ("stands", "stays", "sits", "sleeps", "lies")}),
    "float": Motion({"*": ("floats up and down", "rises and sinks", "hovers", "is floating in the air")}, dy=(-8, -8, 0, 8, 8, 0),
                    also={"*": ("floats", "rises", "levitates")}),
    "nod": Motion({"*": ("nods", "bobs up and down", "is nodding", "bows")}, dy=(8, -8), also={"*": ("dances", "shakes", "bobs")}),
    "pace": Motion({"*": ("goes back and forth", "paces to and fro", "moves from side to side", "turns and comes back")}, dx=(WALK,), turn=10,
                   also={"*": ("paces", "turns around", "turns round", "turns back")},
                   adverbs=("back and forth", "to and fro", "from side to side", "side to side", "forwards and backwards")),
}
# Motions that fit two subjects side by side.
BESIDE = ("run", "walk", "jump", "stand", "float", "nod")
OFTEN = ("run", "walk", "run", "walk", "run", "walk", "cross", "pace", "jump", "stand", "jump", "pace", "float", "nod")
