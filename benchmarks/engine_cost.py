"""Measures what the Engine costs beyond decoding, in CPU time per token: `python benchmarks/engine_cost.py`.

32 greedy requests (`--sequences`) run at once on a tiny model with one thread. A plain loop then decodes the same
batches: the same prompts, and in every step a token for each text that the Engine had not ended there. The cost is the
CPU time of the process in the Engine's run, without the CPU time of the plain loop's decodes, per generated token. It
contains filling batches, sampling, scheduling, text, and waking the threads that wait for a text.

The plain loop is measured with the unified KV cache, in which every token attends over the cells of all sequences, and
with a stream for each sequence, because the Engine may use either.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402
from llama_cffi import Batch, Context, Engine, Ggml, Model, Sampler  # noqa: E402

ENGINE, READ = "engine", "engine, texts read"
UNIFIED, STREAMS, SAMPLED = "decode, unified", "decode, streams", "decode, streams, greedy"
N_PROMPT = 8


def prompts(count: int) -> list[list[int]]:
    """Short prompts that differ from their first token on."""
    return [[300 + number, *range(260, 260 + N_PROMPT - 1)] for number in range(count)]


class Loop:
    """Decodes batches as the Engine does, and nothing else."""

    def __init__(self, model: Model, sequences: int, cells: int, unified: bool) -> None:
        params = Context.Params(
            nCtx=sequences * cells,
            nSeqMax=sequences,
            nBatch=512,
            nThreads=1,
            nThreadsBatch=1,
            kvUnified=unified,
            nOutputsMax=sequences,
        )
        self._ctx = Context.initFromModel(model, params)
        self._batch = Batch.init(max(512, sequences * N_PROMPT))

    def run(self, lengths: list[int], sampler: Sampler | None = None) -> float:
        """Decode the prompts, and then one token at a time for each text until its length.

        Returns the CPU seconds of the decodes, and with a sampler also of picking a token for each output.
        """
        ctx, batch, spent = self._ctx, self._batch, 0.0
        all_prompts = prompts(len(lengths))
        ctx.getMemory().clear(False)
        for step in range(max(lengths)):  # the last token of a text is not decoded
            batch.clear()
            running = [seq for seq, length in enumerate(lengths) if step < length]
            for seq in running:
                if step == 0:
                    batch.extend(all_prompts[seq], 0, (seq,), output="last")
                else:
                    batch.add(300 + (seq + step) % 64, N_PROMPT + step - 1, (seq,), True)
            each = len(batch) // len(running)  # tokens of each text in the batch
            started = time.process_time()
            ctx.decode(batch)
            if sampler is not None:
                for index in range(each - 1, len(batch), each):
                    sampler.sample(ctx, index)
            spent += time.process_time() - started
        return spent

    def close(self) -> None:
        """Free the context."""
        self._ctx.close()


def serve(engine: Engine, sequences: int, tokens: int, read: bool) -> tuple[float, list[int]]:
    """Run the requests, and read the texts piece by piece if `read`. Returns CPU seconds and the texts' lengths."""
    started = time.process_time()
    requests = [engine.submit(prompt, sampler=Sampler.initGreedy(), maxTokens=tokens) for prompt in prompts(sequences)]
    if read:
        for request in requests:
            for _ in request:
                pass
    for request in requests:
        request.result()
    return time.process_time() - started, [len(request.tokens) for request in requests]


def measure(model: Model, sequences: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of CPU time per token, round by round. The first round warms up and is left out."""
    cells = -(-(N_PROMPT + tokens) // 256) * 256
    found: dict[str, list[float]] = {name: [] for name in (ENGINE, READ, UNIFIED, STREAMS, SAMPLED)}
    with ExitStack() as stack:
        engine = stack.enter_context(
            Engine(model, nCtx=sequences * cells, nSeqMax=sequences, nThreads=1, keepPrefixes=False)
        )
        unified, streams = (Loop(model, sequences, cells, unified) for unified in (True, False))
        stack.callback(unified.close)
        stack.callback(streams.close)
        greedy = stack.enter_context(Sampler.initGreedy())
        for number in range(rounds + 1):
            seconds, lengths = serve(engine, sequences, tokens, read=False)
            spent = {
                ENGINE: seconds,
                READ: serve(engine, sequences, tokens, read=True)[0],
                UNIFIED: unified.run(lengths),
                STREAMS: streams.run(lengths),
                SAMPLED: streams.run(lengths, greedy),
            }
            for name in found if number else ():
                found[name].append(1e6 * spent[name] / sum(lengths))
    return found


def table(found: dict[str, list[float]]) -> list[str]:
    """The medians, and the median of the rounds' differences."""
    lines = [f"{'microseconds of CPU time per token':44}{'median':>9}{'minimum':>9}"]
    for name, values in found.items():
        lines.append(f"{name:44}{statistics.median(values):9.2f}{min(values):9.2f}")
    for name in (ENGINE, READ):
        for base in (UNIFIED, STREAMS):
            beyond = [a - b for a, b in zip(found[name], found[base], strict=True)]
            lines.append(f"{f'{name}, beyond {base}':44}{statistics.median(beyond):9.2f}{min(beyond):9.2f}")
    return lines


def _tiny_model(folder: Path, n_vocab: int) -> Path:
    from tests import tiny_models

    spec = tiny_models.TinySpec(n_layer=1, n_embd=32, n_head=1, n_head_kv=1, n_ff=32, n_ctx_train=4096)
    return tiny_models.write_llama(folder / "tiny.gguf", None, spec, n_vocab=n_vocab)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=32, help="requests at once (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=240, help="tokens per request (default: %(default)s)")
    parser.add_argument("--vocab", type=int, default=2000, help="tokens in the vocabulary (default: %(default)s)")
    report.add_arguments(parser, rounds=9)
    given = parser.parse_args()
    Ggml.Backend.cpuLoad()
    about = report.machine() | {"load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        with Model.load(_tiny_model(Path(folder), given.vocab)) as model:
            found = measure(model, given.sequences, given.tokens, given.rounds)
    lines = report.heading("CPU time of the Engine beyond decoding", about)
    lines += [
        f"tiny model, vocabulary of {given.vocab} tokens; {given.sequences} greedy requests of {given.tokens} tokens "
        f"at once, one thread, {given.rounds} rounds; load {about['load']:.1f} before",
        "",
        *table(found),
    ]
    print("\n".join(lines), flush=True)
    if given.out is not None:
        figures = {"machine": about, "settings": {"sequences": given.sequences, "tokens": given.tokens}, "found": found}
        report.write(given.out, f"{about['processor']} engine cost {given.label}", lines, figures)


if __name__ == "__main__":
    main()
