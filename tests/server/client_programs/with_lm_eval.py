"""lm-eval: a small task of multiple choice, through `local-completions`. Prints the scores as JSON."""

import json
import os
import sys
from pathlib import Path

os.environ["HF_DATASETS_CACHE"] = f"{sys.argv[2]}/cache"

import lm_eval
import requests
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

url, folder = sys.argv[1], Path(sys.argv[2])
(folder / "small.yaml").write_text(
    f"""task: small
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/questions.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
"""
)


class Tokens:
    """The server's tokenizer: scores are asked for by tokens."""

    eos_token_id = 0
    eos_token = ""

    def __call__(self, text, **options):
        texts = [text] if isinstance(text, str) else text
        found = [
            requests.post(f"{url}/tokenize", json={"content": each, "add_special": True}, timeout=60).json()["tokens"]
            for each in texts
        ]
        return type("Encoded", (), {"input_ids": found[0] if isinstance(text, str) else found})()

    def encode(self, text, **options):
        return self(text).input_ids


model = LocalCompletionsAPI(
    base_url=f"{url}/v1/completions", model="smol", tokenizer_backend=None, tokenized_requests=False, max_length=256
)
model.tokenizer, model.tokenizer_backend, model.tokenized_requests = Tokens(), "huggingface", True
found = lm_eval.simple_evaluate(
    model=model,
    tasks=["small"],
    task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    bootstrap_iters=0,
)
samples = sorted(found["samples"]["small"], key=lambda sample: sample["doc_id"])
scores = [[float(answer[0][0]) for answer in sample["resps"]] for sample in samples]
print(json.dumps({"accuracy": found["results"]["small"]["acc,none"], "scores": scores}))
