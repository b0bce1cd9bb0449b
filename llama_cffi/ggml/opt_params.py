"""`Ggml.OptOptimizerParams`: the learning rate and the other numbers of an optimizer."""

from __future__ import annotations

from llama_cffi._core.checks import expected, number, out_of_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LARGEST = 1e30  # finite as a C float


class OptOptimizerParams:
    """The numbers of an optimizer. SGD uses `alpha` and `wd`, AdamW all of them.

    Maps to `ggml_opt_optimizer_params`.
    """

    __slots__ = ("_values",)

    def __init__(
        self, alpha: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, wd: float = 0.0
    ) -> None:
        """Make parameters. Raises ValueError for a number out of its range.

        Maps to `ggml_opt_get_default_optimizer_params`.
        """
        self._values: dict[str, float] = {}
        self.alpha, self.beta1, self.beta2, self.eps, self.wd = alpha, beta1, beta2, eps, wd

    def _set(self, name: str, value: float, low: float, high: float) -> None:
        given = number(value, name)
        if not low <= given <= high:
            raise out_of_range(name, value, low, high)
        self._values[name] = given

    @property
    def alpha(self) -> float:
        """The learning rate, more than 0."""
        return self._values["alpha"]

    @alpha.setter
    def alpha(self, value: float) -> None:
        self._set("alpha", value, 1e-30, _LARGEST)

    @property
    def beta1(self) -> float:
        """The decay of AdamW's first momentum, between 0 and 1."""
        return self._values["beta1"]

    @beta1.setter
    def beta1(self, value: float) -> None:
        self._set("beta1", value, 0.0, 1.0)

    @property
    def beta2(self) -> float:
        """The decay of AdamW's second momentum, between 0 and 1."""
        return self._values["beta2"]

    @beta2.setter
    def beta2(self, value: float) -> None:
        self._set("beta2", value, 0.0, 1.0)

    @property
    def eps(self) -> float:
        """What AdamW adds to a divisor, at least 0."""
        return self._values["eps"]

    @eps.setter
    def eps(self, value: float) -> None:
        self._set("eps", value, 0.0, _LARGEST)

    @property
    def wd(self) -> float:
        """The weight decay, between 0 (none) and 1."""
        return self._values["wd"]

    @wd.setter
    def wd(self, value: float) -> None:
        self._set("wd", value, 0.0, 1.0)

    def _write(self, pointer: Any) -> None:
        """Write the numbers to a C struct."""
        for name in ("alpha", "beta1", "beta2", "eps", "wd"):
            setattr(pointer.adamw, name, self._values[name])
        pointer.sgd.alpha, pointer.sgd.wd = self.alpha, self.wd

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OptOptimizerParams) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"OptOptimizerParams({', '.join([f'{name}={value!r}' for name, value in self._values.items()])})"


def optimizer_params(given: Any, epoch: int) -> OptOptimizerParams:
    """Return the parameters for an epoch. `given`: parameters, a function of the epoch, or None for the defaults."""
    if given is None:
        return OptOptimizerParams()
    found = given(epoch) if callable(given) else given
    if not isinstance(found, OptOptimizerParams):
        raise expected(
            "Ggml.OptOptimizerParams, or a function of the epoch that returns them",
            found,
            "Ggml.OptOptimizerParams(alpha=0.01) makes some",
            "getOptPars",
        )
    return found
