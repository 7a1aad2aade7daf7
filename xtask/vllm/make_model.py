"""Makes the directory that vLLM reads a model from: bf16 safetensors, config, tokeniser, chat template; out of a GGUF file.

Both ends are then given the same weights, rounded in the same way, so their greedy answers can be compared. The GGUF
stores the rows of the query and key projections in another order; transformers puts them back.

Usage: make_model.py MODEL.gguf DIRECTORY
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

source, target = sys.argv[1:]
folder, name = os.path.split(os.path.abspath(source))

tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).to(torch.bfloat16)

weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
if model.config.tie_word_embeddings:
    weights.pop("lm_head.weight", None)

config = model.config.to_dict()
# Of the form that the weights no longer have, and of the place they came from.
config.pop("quantization_config", None)
config.pop("_name_or_path", None)
config.update(architectures=[type(model).__name__], dtype="bfloat16", torch_dtype="bfloat16")

os.makedirs(target, exist_ok=True)
save_file(weights, os.path.join(target, "model.safetensors"), metadata={"format": "pt"})
with open(os.path.join(target, "config.json"), "w") as file:
    json.dump(config, file, indent=1, default=str)
tokenizer.save_pretrained(target)
