"""What `Generation` and `Engine` know of images and sounds: bases of the classes of `Mtmd`, which stands on these."""

from __future__ import annotations

from llama_cffi._core.handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from llama_cffi.model.model import Model

    # An Mtmd.Bitmap, a path, the bytes of a file, an array of pixels or samples, or an image of Pillow.
    MediaInput: TypeAlias = Any


class Projector(Handle):
    """What encodes images and sounds: an `Mtmd.Context`."""

    __slots__ = ()

    def getModel(self) -> Model:
        """Return the model that the projector was loaded for."""
        raise NotImplementedError

    def _read_prompt(self, prompt: Any, media: Any, limits: Any, model: Model) -> Any:
        """Return the tokens of a prompt with its images and sounds."""
        raise NotImplementedError


class PromptChunks(Handle):
    """A prompt as pieces: `Mtmd.Chunks`."""

    __slots__ = ()
