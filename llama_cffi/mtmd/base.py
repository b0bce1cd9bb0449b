"""What a projector takes: the part of `Mtmd.Context` that bitmaps need."""

from __future__ import annotations

from llama_cffi._core.ffi import lib
from llama_cffi.generation.projector import Projector
from llama_cffi.model.model import Model
from llama_cffi.mtmd.embeddings import Embeddings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class MtmdBase(Projector):
    """A projector that takes images or sounds."""

    __slots__ = ("_embeddings", "_model", "_nEmbd")

    _KIND = "projector"
    _MADE_BY = "Mtmd.Context.initFromFile(path, model) makes one"

    _embeddings: Embeddings  # of what was encoded last, for `Generation` and what stands on it
    _model: Model
    _nEmbd: int  # floats of an embedding

    def _encode(self, pointer: Any, chunk: Any) -> None:
        """Encode a chunk with exclusive use of this object."""
        raise NotImplementedError

    def supportVision(self) -> bool:
        """Return True if the model takes images.

        Maps to `mtmd_support_vision`.
        """
        return bool(lib.mtmd_support_vision(self._c))

    def supportAudio(self) -> bool:
        """Return True if the model takes sounds.

        Maps to `mtmd_support_audio`.
        """
        return bool(lib.mtmd_support_audio(self._c))

    def getAudioSampleRate(self) -> int:
        """Return the sample rate of sounds in Hz; -1 if the model takes none.

        Maps to `mtmd_get_audio_sample_rate`.
        """
        return lib.mtmd_get_audio_sample_rate(self._c)

    def _require_vision(self) -> None:
        """Raise ValueError if the model takes no images."""
        if not self.supportVision():
            raise ValueError("this projector takes no images, only sounds: use a vision model's mmproj file")

    def _require_audio(self) -> int:
        """Return the sample rate. Raises ValueError if the model takes no sounds."""
        if not self.supportAudio():
            raise ValueError("this projector takes no sounds, only images: use an audio model's mmproj file")
        return self.getAudioSampleRate()
