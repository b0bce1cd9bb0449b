"""Settings of a speed measurement, the same for the facade and for llama-bench."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

CACHE_TYPES = ("f16", "f32", "bf16", "q8_0", "q4_0")
SWITCH = ("on", "off", "auto")
SPLIT_MODES = ("none", "layer", "row", "tensor")


@dataclass(frozen=True)
class Settings:
    """One way to run one model. The defaults are those of llama-bench, except for the number of threads."""

    model: Path
    prompt: int = 512
    """Tokens of the prompt."""
    generate: int = 128
    """Tokens to generate, one by one."""
    runs: int = 5
    """Timed runs of each test in one process, after a warm-up."""
    skip: int = 0
    """How many of the first runs to ignore: on a GPU whose clock rises slowly they are slower on both sides."""
    devices: str = "auto"
    """Names separated by commas (`Vulkan0,Vulkan1`); `auto` is every GPU, `none` the CPU only."""
    gpu_layers: int = -1
    """Layers to offload; -1 is all of them."""
    split_mode: str = "layer"
    main_gpu: int = 0
    tensor_split: str = ""
    """Shares of the devices, separated by slashes (`3/1`); empty: by their free memory."""
    threads: int = len(os.sched_getaffinity(0))
    batch: int = 2048
    ubatch: int = 512
    flash_attn: str = "auto"
    type_k: str = "f16"
    type_v: str = "f16"

    @property
    def on_cpu(self) -> bool:
        """True if only the CPU is used."""
        return self.devices == "none"

    def arguments(self) -> list[str]:
        """The command line for these settings, the model first; `parse` reads it."""
        options = [f for f in fields(self) if f.name != "model"]
        return [str(self.model), *(f"--{f.name.replace('_', '-')}={getattr(self, f.name)}" for f in options)]

    def for_llama_bench(self) -> list[str]:
        """The settings as options of llama-bench."""
        options = {
            "-m": self.model,
            "-p": self.prompt,
            "-n": self.generate,
            "-r": self.runs,
            "-ngl": 0 if self.on_cpu else self.gpu_layers,
            "-sm": self.split_mode,
            "-mg": self.main_gpu,
            "-t": self.threads,
            "-b": self.batch,
            "-ub": self.ubatch,
            "-fa": self.flash_attn,
            "-ctk": self.type_k,
            "-ctv": self.type_v,
            "-o": "json",
        }
        if self.devices != "auto":
            options["-dev"] = self.devices.replace(",", "/")
        if self.tensor_split:
            options["-ts"] = self.tensor_split
        return [text for name, value in options.items() for text in (name, str(value))]


def add_arguments(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Add an option for every setting except the model and those in `without`."""
    choices = {
        "split_mode": SPLIT_MODES,
        "flash_attn": SWITCH,
        "type_k": CACHE_TYPES,
        "type_v": CACHE_TYPES,
    }
    for field in fields(Settings):
        if field.name not in ("model", *without):
            option, kind = f"--{field.name.replace('_', '-')}", type(field.default)
            parser.add_argument(option, type=kind, default=field.default, choices=choices.get(field.name))


def from_arguments(arguments: argparse.Namespace, model: Path) -> Settings:
    """The settings of a parsed command line for one model."""
    chosen = {f.name: getattr(arguments, f.name) for f in fields(Settings) if f.name != "model"}
    return replace(Settings(model), **chosen)


def parse(words: Sequence[str] | None = None, description: str | None = None) -> Settings:
    """Parse a command line: a model and its settings."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", type=Path)
    add_arguments(parser)
    arguments = parser.parse_args(words)
    return from_arguments(arguments, arguments.model)
