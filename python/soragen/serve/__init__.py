"""OpenAI's videos interface (`/v1/videos`) over Ray Serve.

`python -m soragen.serve --port 8000` starts it on this machine. On a cluster, Ray Serve starts `soragen.serve:build` with a configuration
file.
"""

from .config import Config, ConfigError, Limits, ModelConfig
from .service import application, build

__all__ = ["Config", "ConfigError", "Limits", "ModelConfig", "application", "build"]
