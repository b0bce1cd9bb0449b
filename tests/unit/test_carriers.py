"""The packages that carry llama.cpp: names of their releases, and what the pin says of them."""

from __future__ import annotations

import json

import pytest

from vendor.source import carriers
from vendor.source.carriers import CARRIERS, DEFAULT
from vendor.source.pin import Pin
from vendor.tools import FetchError

WITH_GIT, WITHOUT_GIT = CARRIERS


@pytest.mark.parametrize(
    "version, build",
    [("2026.10.11549", 11549), ("2026.4.8672.1", 8672), ("0.2.14", 0), ("2026.10", 0), ("2026.10.11549rc1", 0)],
)
def test_the_build_number_in_a_version(version: str, build: int) -> None:
    assert WITHOUT_GIT.build_of(version) == build and WITH_GIT.build_of(version) == 0


@pytest.mark.parametrize(
    "name, words",
    [
        ("--pre", r"version of llama-cpp-python.*0\.3\.30.*'--pre'"),
        ("xllamacpp==", r"version of xllamacpp.*2026\.10\.11549.*''"),
        ("xllamacpp==2026.1.1 --pre", r"version of xllamacpp"),
        ("xllamacpp==../../x", r"version of xllamacpp"),
        ("numpy==2.0", r"llama-cpp-python or xllamacpp.*'numpy'"),
        ("numpy", r"llama-cpp-python or xllamacpp.*'numpy'"),
        ("==1.0", r"llama-cpp-python or xllamacpp.*''"),
    ],
)
def test_names_of_releases_that_are_refused(name: str, words: str) -> None:
    with pytest.raises(FetchError, match=words):
        carriers.parse(name)


@pytest.mark.parametrize("name", ["0.3.30", "xllamacpp==2026.10.11549"])
def test_names_of_releases(name: str) -> None:
    carrier, version = carriers.parse(name)
    assert carriers.name_of(carrier.package, version) == name and f"{carrier.package}=={version}".endswith(name)


@pytest.mark.parametrize(
    "member, path",
    [
        ("x-1/thirdparty/llama.cpp/src/a.cpp", "src/a.cpp"),
        ("x-1/thirdparty/llama.cpp", None),
        ("x-1/vendor/llama.cpp/src/a.cpp", None),
        ("x-1/other/thirdparty/llama.cpp/src/a.cpp", None),
        ("x-1/thirdparty/llama.cpp/../../../a.cpp", None),
    ],
)
def test_what_is_llama_cpp_s_in_an_sdist(member: str, path: str | None) -> None:
    found = carriers.below(member, WITHOUT_GIT.tree)
    assert (None if found is None else str(found)) == path


@pytest.mark.parametrize(
    "pin, name, label",
    [
        (Pin("a" * 64, "1" * 40, "llama-cpp-python", "1.2.3"), "1.2.3", f"{'1' * 12} (llama-cpp-python 1.2.3)"),
        (Pin("a" * 64, "", "llama-cpp-python", "1.2.3"), "1.2.3", "unknown (llama-cpp-python 1.2.3)"),
        (
            Pin("a" * 64, package="xllamacpp", version="2026.10.7", build=7, date="2026-10-10"),
            "xllamacpp==2026.10.7",
            "b7 (xllamacpp 2026.10.7)",
        ),
        (Pin("a" * 64, "1" * 40), "1" * 12, "1" * 12),
        (Pin("a" * 64), f"tree {'a' * 12}", f"tree {'a' * 12}"),
    ],
)
def test_a_pin_has_a_name_and_a_label(pin: Pin, name: str, label: str) -> None:
    assert pin.name == name and pin.label == f"llama.cpp {label}"
    assert Pin(**json.loads(pin.dumps())) == pin
    assert pin.is_tree or carriers.parse(pin.name) == (carriers.of(pin.package), pin.version)


def test_carriers_are_told_apart() -> None:
    assert len({carrier.package for carrier in CARRIERS}) == len(CARRIERS)
    for carrier in CARRIERS:
        found, version = carriers.parse(f"{carrier.package}=={carrier.example}")
        assert (found, version) == (carrier, carrier.example) and carriers.parse(carrier.package) == (carrier, "")
        assert carrier.git or carrier.build_of(carrier.example), "nothing says which llama.cpp it is"
    assert carriers.parse(DEFAULT.example)[0] is DEFAULT
