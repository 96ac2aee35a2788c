"""Films on many machines, with Ray: scenes are made by a pool of workers, and put together on this machine.

    from soragen.ray import film

    film("film.toml", "film.mp4", model="hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers", address="auto")

or `python -m soragen.ray film.toml -o film.mp4`. Without an address Ray starts on this machine.
"""

from .film import Report, film

__all__ = ["Report", "film"]
