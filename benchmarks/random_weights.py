"""A base of a real shape with random weights, from a folder that has only its config and tokenizer.

    python benchmarks/random_weights.py Qwen2.5-1.5B-config-only/ random-1.5b/

Speed and memory are those of the real model; answers are not. It is saved as a model folder, so that the
benchmarks load it on the way that users load theirs.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from modeling.devices import best_device
from runtime.atomic_files import file_sha256


def random_base(folder: str | Path, output: str | Path, layers: int | None = None) -> Path:
    """Write the model folder `output` (bf16, the config's shape or its first `layers` layers) unless it is there."""
    folder, output = Path(folder), Path(output)
    if (output / "config.json").is_file() and any(output.glob("*.safetensors")):
        return output
    config = Qwen2Config.from_json_file(folder / "config.json")
    if layers:
        config.num_hidden_layers, config.layer_types = layers, config.layer_types[:layers]
    torch.manual_seed(0)
    with torch.device(best_device().kind):  # on a GPU 1.5 billion numbers are drawn at once
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    output.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*token*.json"):
        shutil.copy(path, output)
    model.save_pretrained(output)
    return output


def temporary_random_base(folder: str | Path) -> Path:
    """The same in the system's temporary folder, made once for each shape, in a process that leaves no memory taken."""
    shape = file_sha256(Path(folder) / "config.json")[:12]
    output = Path(tempfile.gettempdir()) / f"random_base-{shape}"
    subprocess.run([sys.executable, __file__, folder, output], check=True)
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="with config.json and the tokenizer's files")
    parser.add_argument("output")
    parser.add_argument("--layers", type=int, help="only the first N layers")
    arguments = parser.parse_args()
    print(random_base(arguments.folder, arguments.output, arguments.layers))
