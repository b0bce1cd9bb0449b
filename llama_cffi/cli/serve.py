"""`llama-cffi serve`: serve models over HTTP by OpenAI's protocol."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_cffi._core.argparse_types import integer, number
from llama_cffi._core.command_parser import CommandParser
from llama_cffi.chat.template import ChatTemplate
from llama_cffi.cli import media, options, output
from llama_cffi.embedding.embedding import Embedder, Reranker
from llama_cffi.engine.engine import Engine
from llama_cffi.generation.prompt_lookup import PromptLookup
from llama_cffi.model.adapter import Adapter
from llama_cffi.model.model import Model

if TYPE_CHECKING:
    from typing import Any

    from llama_cffi.server import Limits, ServedModel

KEY_VARIABLE = "LLAMA_CFFI_API_KEY"
_DEFAULT_PORT = 8080
_DEFAULT_PARALLEL = 8
_HELP = "GGUF file, or hf:ORG/REPO/FILE.gguf, with the name that requests use; may be repeated"


def make_parser() -> CommandParser:
    """The parser of the options."""
    parser = options.parser(
        "serve",
        "Serve models over HTTP by OpenAI's protocol, and a page to chat. Ctrl-C stops the server.",
        "serve -m chat-model.gguf",
        "serve -m chat=chat-model.gguf --embedding-model embed=embedding-model.gguf --port 9000",
    )
    _add_models(parser)
    _add_network(parser)
    _add_limits(parser)
    options.add_model(parser, named=False)
    options.add_context(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Serve. Returns 0 after SIGTERM or Ctrl-C, or 1 on failure; wrong arguments exit with 2."""
    args = make_parser().parse_args(argv)
    if not args.model and not args.embedding_model and not args.rerank_model:
        default = os.environ.get(options.MODEL_VARIABLE)
        args.model = [default] if default else []
    return output.run(lambda: _run(args))


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "-m",
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help=f"model for text: {_HELP} (default: the environment variable {options.MODEL_VARIABLE})",
    )
    group.add_argument(
        "--embedding-model", action="append", default=[], metavar="[NAME=]FILE", help=f"model for embeddings: {_HELP}"
    )
    group.add_argument(
        "--rerank-model", action="append", default=[], metavar="[NAME=]FILE", help=f"model that reranks: {_HELP}"
    )
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="[MODEL:]NAME=FILE",
        help="LoRA adapter that requests can select, of the first model for text if MODEL is left out; may be repeated",
    )
    group.add_argument(
        "--mmproj",
        action="append",
        default=[],
        metavar="[MODEL=]FILE",
        help="projector file for images and sounds, of the first model for text if MODEL is left out; may be repeated",
    )
    group.add_argument("--untrusted", action="store_true", help="load the files in a child process first")
    group.add_argument(
        "--template", metavar="NAME", help="built-in chat template, such as chatml (default: the model's own)"
    )
    group.add_argument("--template-file", metavar="FILE", help="chat template in Jinja, for all models for text")
    group.add_argument(
        "-p",
        "--parallel",
        type=integer(1, 256),
        default=_DEFAULT_PARALLEL,
        metavar="N",
        help="generate at most N texts at once with each model (default: %(default)s)",
    )
    group.add_argument(
        "--no-prefix-cache", action="store_true", help="keep nothing of a prompt when its request has ended"
    )
    options.add_prompt_cache(group)
    group.add_argument(
        "--lookup",
        action="store_true",
        help="while few texts are generated, guess that they repeat their prompts: faster for edits and quotes",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    group.add_argument(
        "--port", type=integer(0, 65535), default=_DEFAULT_PORT, metavar="N", help="port; 0: a free one (default: 8080)"
    )
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="key that requests must have; may be repeated; required unless the address is a loopback address "
        f"(default: the environment variable {KEY_VARIABLE})",
    )
    group.add_argument("--api-key-file", metavar="FILE", help="file with a key on each line")
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests for this name of the server too; may be repeated",
    )
    group.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin call the server from a browser; may be repeated",
    )
    group.add_argument("--tls-certificate", metavar="FILE", help="certificate chain in PEM, for https")
    group.add_argument("--tls-key", metavar="FILE", help="private key of the certificate in PEM")
    group.add_argument("--no-page", action="store_true", help="do not serve the page for people at /")
    group.add_argument("-q", "--quiet", action="store_true", help="print no progress bar and no access log")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--strict", action="store_true", help="refuse requests with unknown parameters")
    for name, kind, default, text in (
        ("--max-waiting", integer(0), 64, "let at most N texts of a model wait"),
        ("--max-requests", integer(1), 512, "hold at most N requests open"),
        ("--max-tokens", integer(1), None, "generate at most N tokens for a text (default: what fits the context)"),
        ("--max-prompt", integer(1), None, "accept prompts of at most N tokens (default: what fits the context)"),
        ("--max-body", integer(1), 8 << 20, "accept bodies of at most N bytes"),
    ):
        shown = "" if default is None else " (default: %(default)s)"
        group.add_argument(name, type=kind, default=default, metavar="N", help=text + shown)
    for name, seconds, text in (
        ("--timeout", 600, "end a request after N seconds"),
        ("--shutdown-timeout", 30, "after SIGTERM, let open requests go on for N seconds"),
    ):
        group.add_argument(name, type=number(0), default=seconds, metavar="N", help=f"{text} (default: %(default)s)")


def _run(args: argparse.Namespace) -> int:
    from llama_cffi import server

    if not (args.model or args.embedding_model or args.rerank_model):
        raise options.no_model()
    keys = _keys(args)
    if not server.is_loopback(args.host) and not keys:
        raise output.CommandError(
            f"other machines can reach {args.host}, so a key is required: use --api-key, or set the environment "
            f"variable {KEY_VARIABLE}",
            2,
        )
    if bool(args.tls_certificate) != bool(args.tls_key):
        raise output.CommandError("--tls-certificate and --tls-key belong together: use both", 2)
    # Before the models are loaded, which may take minutes.
    for file in filter(None, (args.tls_certificate, args.tls_key)):
        options.read_file(file, "--tls-certificate" if file == args.tls_certificate else "--tls-key")
    if args.tls_certificate:
        _require_certificate(args.tls_certificate, args.tls_key)
    server.require_address(args.host, args.port)
    if not args.quiet:
        server.log_to_stderr()
    options.prepare(args)
    with contextlib.ExitStack() as stack:
        served = _load(args, stack)
        server.serve(
            served,
            host=args.host,
            port=args.port,
            apiKeys=keys,
            allowedHosts=args.allow_host,
            limits=_limits(args),
            strict=args.strict,
            page=not args.no_page,
            corsOrigins=args.cors,
            tlsCertificate=args.tls_certificate,
            tlsKey=args.tls_key,
            shutdownSeconds=args.shutdown_timeout,
            ready=lambda url: output.say(f"serving {', '.join(served)} at {url}"),
        )
    return 0


def _require_certificate(certificate: str, key: str) -> None:
    """Check that a server can use these files, which uvicorn would read only after the models."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        raise output.CommandError(
            f"--tls-certificate {certificate} and --tls-key {key} cannot be used: {error.reason or error}: use a "
            "certificate in PEM and its own key, without a password"
        ) from None


def _limits(args: argparse.Namespace) -> Limits:
    from llama_cffi.server import Limits

    return Limits(
        maxBody=args.max_body,
        maxPrompt=args.max_prompt,
        maxTokens=args.max_tokens,
        maxWaiting=args.max_waiting,
        maxRequests=args.max_requests,
        seconds=args.timeout,
    )


def _keys(args: argparse.Namespace) -> list[str]:
    keys: list[str] = list(args.api_key)
    if args.api_key_file:
        keys += options.read_file(args.api_key_file, "--api-key-file").splitlines()
    keys = [key.strip() for key in keys if key.strip()]
    if (args.api_key or args.api_key_file) and not keys:
        raise output.CommandError("the keys of --api-key and --api-key-file are empty: name one", 2)
    variable = os.environ.get(KEY_VARIABLE, "").strip()
    return keys or ([variable] if variable else [])


# Models


def _load(args: argparse.Namespace, stack: contextlib.ExitStack) -> dict[str, ServedModel]:
    """Load all models, by their names. `stack` frees them."""
    from llama_cffi.server import ServedModel

    served: dict[str, ServedModel] = {}
    loras, projectors, cache = _loras(args), _projectors(args), options.prompt_cache(args)
    for given in args.model:
        name, model = _model(args, given, stack)
        _require_new(name, served)
        adapters = {key: Adapter.loraInit(model, file) for key, file in loras.pop(name, {}).items()}
        if not served:
            adapters |= {key: Adapter.loraInit(model, file) for key, file in loras.pop("", {}).items()}
        params = options.context_params(args, model.nCtxTrain)
        batch = {} if args.batch is None else {"nBatch": args.batch}
        keep = not args.no_prefix_cache
        size = {"nCtx": (params.nCtx or model.nCtxTrain) * args.parallel, "nSeqMax": args.parallel}
        file = projectors.pop(name, None) or (None if served else projectors.pop("", None))
        projector = None if file is None else media.load_file(args, file, model, media.new_marker())
        guesses = PromptLookup() if args.lookup else None
        kept: dict[str, Any] = {"keepPrefixes": keep, "promptCache": cache, "speculation": guesses}
        engine = Engine(model, params=params, nThreads=args.threads, mtmd=projector, **kept, **size, **batch)
        served[name] = ServedModel(engine, adapters=adapters, template=_template(args, model))
        stack.callback(served[name].close)
    if loras:
        known = f"there is {', '.join(served)}" if served else "no -m was given"
        raise output.CommandError(f"--lora: there is no model for text {next(iter(loras))!r}: {known}", 2)
    if projectors:
        raise output.CommandError(f"--mmproj: there is no model for text {next(iter(projectors))!r}", 2)
    for files, part in ((args.embedding_model, "embedder"), (args.rerank_model, "reranker")):
        for given in files:
            name, model = _model(args, given, stack)
            _require_new(name, served)
            if part == "embedder":
                served[name] = ServedModel(embedder=Embedder(model, nThreads=args.threads))
            else:
                served[name] = ServedModel(reranker=Reranker(model, nThreads=args.threads))
            stack.callback(served[name].close)
    return served


def _require_new(name: str, served: dict[str, ServedModel]) -> None:
    if name in served:
        raise output.CommandError(f"two models have the name {name!r}: write NAME=FILE to name them", 2)


def _model(args: argparse.Namespace, given: str, stack: contextlib.ExitStack) -> tuple[str, Model]:
    name, file = _named(given)
    file = options.model_path(file)
    params = options.model_params(args)
    progress = output.Progress("loading", os.path.basename(file), args.quiet)
    params.progressCallback = progress
    options.quiet_downloads(progress.shown)
    try:
        return name, stack.enter_context(Model.load(file, params, untrusted=args.untrusted))
    finally:
        progress.end()


def _named(given: str) -> tuple[str, str]:
    """Split NAME=FILE. Without a name it is the file's, without its folder and `.gguf`."""
    name, sign, file = given.partition("=")
    if sign and name and "/" not in name and not os.path.exists(given):
        return name, file
    return os.path.basename(given).removesuffix(".gguf"), given


def _loras(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The adapters of --lora: files by adapter's name, by model's name ("" is the first one)."""
    found: dict[str, dict[str, str]] = {}
    for given in args.lora:
        name, sign, file = given.partition("=")
        if not sign or not name or not file:
            raise output.CommandError(f"--lora {given}: expected [MODEL:]NAME=FILE", 2)
        model, _, adapter = name.rpartition(":")
        found.setdefault(model, {})[adapter] = file
    return found


def _projectors(args: argparse.Namespace) -> dict[str, str]:
    """The files of --mmproj, by model's name ("" is the first one)."""
    found: dict[str, str] = {}
    for given in args.mmproj:
        name, sign, file = given.partition("=")
        named = sign and "/" not in name and not os.path.exists(given)
        found[name if named else ""] = file if named else given
    return found


def _template(args: argparse.Namespace, model: Model) -> ChatTemplate | None:
    if args.template and args.template_file:
        raise output.CommandError("use either --template or --template-file", 2)
    text = options.read_file(args.template_file, "--template-file") if args.template_file else args.template
    return ChatTemplate(model, text) if text else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
