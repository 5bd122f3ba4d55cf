"""Where a training starts: at the base, at a checkpoint of the same run, or at an adapter that is to learn more.

start, run, checkpoint = find_start(config, lora, data, labels)

The last is `python train.py --init_adapter outputs/lora_adapter …`: training then starts from its LoRA weights
and head, so all that these depend on has to be as it was; the optimizer, the learning rate and the calibration begin
anew.
"""

from pathlib import Path
from typing import Any

import numpy as np

from configs.lora_config import LoraSettings
from configs.training_config import RESUME_AUTO, RESUME_NONE, TrainingConfig
from data.seen_texts import read_seen_texts
from modeling.adapter_folder import RUN_INFO, WEIGHTS, SentimentConfig, damaged, read_object, require_adapter
from modeling.base_model import ADAPTER_CONFIG, BASE, COMMIT, base_facts, find_model, lasting_name
from runtime.atomic_files import file_sha256
from runtime.distributed import broadcast_from_main
from runtime.errors import UserError, differences
from runtime.processes import is_main
from training.checkpoints import (
    Run,
    choose_checkpoint,
    find_checkpoints,
    fingerprint,
    finished_run,
    finished_run_id,
    keep_base,
    read_manifest,
    recorded_commit,
)

WEIGHTS_KEY = "--init_adapter 的权重"  # in the fingerprint of a run


def inherited_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Values of the flags that are not `given` and that the weights of `given["init_adapter"]` depend on."""
    folder = Path(given["init_adapter"])
    sentiment, lora = SentimentConfig.load(folder), _lora_config(folder)
    settings = {
        "model_name": sentiment.base_model,
        "head": sentiment.head,
        "labels": sentiment.labels,
        "ordinal": sentiment.ordinal,
        "max_length": sentiment.max_length,
        "use_qlora": sentiment.quantization == "nf4",
        "lora_r": lora["r"],
        "lora_alpha": lora["lora_alpha"],
        "target_modules": lora["target_modules"],
    }
    if sentiment.sentiments and not {"labels", "negative_label", "positive_label"} & given.keys():
        settings |= dict(zip(("negative_label", "positive_label"), sentiment.sentiments, strict=True))
    if given.get("head", sentiment.head) == sentiment.head:  # else the head is refused, and these would hide it
        settings |= {"prompt_template": sentiment.prompt_template, "label_words": sentiment.label_words}
    return settings


def _lora_config(folder: Path) -> dict[str, Any]:
    """The adapter's own account of its LoRA, as far as a training can go on with it."""
    from modeling.lora import is_plain_lora

    path = require_adapter(folder) / ADAPTER_CONFIG
    config = read_object(path)
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise damaged(path, f"target_modules={targets!r:.60}")
    if not isinstance(config.get("lora_alpha"), int):
        raise damaged(path, f"lora_alpha={config.get('lora_alpha')!r:.60}")
    if not is_plain_lora(config):
        raise UserError(f"--init_adapter：{path} 用了本仓库不训练的 LoRA 变体（DoRA、rsLoRA 等），不能接着训练")
    return config | {"target_modules": sorted(targets)}


class FreshStart:
    """Where training starts without `--init_adapter`: at the base itself, with fresh LoRA weights and head."""

    commit: str | None = None  # of the base on the hub; None before it is looked for is the newest
    seen: np.ndarray | None = None  # hashes of the texts of earlier trainings, (N,)
    finished: dict[str, Any] | None = None  # run_info.json, where there is nothing left to train

    def __init__(self):
        self.fingerprint: dict[str, str] = {}  # part of that of the run

    def require_same(self, config: TrainingConfig, lora: LoraSettings, labels: list[str], base: dict[str, str]) -> None:
        pass

    def load_into(self, model) -> None:
        pass


class InitialAdapter(FreshStart):
    """Where training starts with `--init_adapter`."""

    def __init__(self, config: TrainingConfig):
        super().__init__()
        self.folder = Path(config.init_adapter)
        self.sentiment, self.lora = SentimentConfig.load(self.folder), _lora_config(self.folder)
        self.seen = read_seen_texts(self.folder)
        info = read_object(self.folder / RUN_INFO) if (self.folder / RUN_INFO).is_file() else {}
        self.recorded = info.get("fingerprint", {})  # of the run that made it; none in adapters of earlier versions
        if not isinstance(self.recorded, dict):
            raise damaged(self.folder / RUN_INFO, "fingerprint")
        if config.model_name == self.sentiment.base_model:
            self.commit = self.sentiment.base_revision
        # A run may replace the very adapter it began with. Killed then, before it was marked as finished, it finds
        # its own result in the folder, which says what the run began with.
        weights = f"SHA-256 {file_sha256(self.folder / WEIGHTS)[:16]}"
        resumes = config.resume_from_checkpoint != RESUME_NONE
        if resumes and str(info.get("run_id")) in _unfinished_runs(Path(config.output_dir)):
            weights = self.recorded.get(WEIGHTS_KEY, weights)
        self.fingerprint = {WEIGHTS_KEY: weights}

    def require_same(self, config: TrainingConfig, lora: LoraSettings, labels: list[str], base: dict[str, str]) -> None:
        """All that the weights depend on, or one `UserError` with every difference; `base` as `base_facts` has it.

        In another precision the base has other weights: an adapter is trained for those of its own.
        """
        theirs = {
            "--head": self.sentiment.head,
            "--labels": self.sentiment.labels,
            "--prompt_template": self.sentiment.prompt_template,
            "--label_words": self.sentiment.label_words,
            "--use_qlora": self.sentiment.quantization == "nf4",
            "--lora_r": self.lora["r"],
            "--lora_alpha": self.lora["lora_alpha"],
            "--target_modules": self.lora["target_modules"],
        }
        all_linear = lora.target_modules == ["all-linear"]  # compared by `load_into`, layer by layer
        ours = {
            "--head": config.head,
            "--labels": labels,
            "--prompt_template": config.template_for(labels),
            "--label_words": config.words_for(labels),
            "--use_qlora": config.use_qlora,
            "--lora_r": lora.lora_r,
            "--lora_alpha": lora.lora_alpha,
            "--target_modules": self.lora["target_modules"] if all_linear else sorted(lora.target_modules),
        }
        # Adapters of earlier versions know their base by name and commit alone.
        recorded = {name: value for name, value in self.recorded.items() if name.startswith(BASE)}
        if not recorded:
            recorded = {COMMIT: self.sentiment.base_revision}
            base = {COMMIT: base.get(COMMIT)}
        if COMMIT in recorded or recorded != base:  # a folder may be elsewhere, if its files are the same
            theirs |= {"--model_name": self.sentiment.base_model} | recorded
            ours |= {"--model_name": lasting_name(config.model_name)} | base
        if lines := differences(theirs, ours, "适配器"):
            raise UserError(
                f"--init_adapter：不能接着训练 {self.folder}，下面的设置不同：\n" + "\n".join(lines) + "\n"
                "两个办法：去掉这些参数，就用适配器的；或去掉 --init_adapter，从头训练"
            )

    def load_into(self, model) -> None:
        """Give the freshly made model the adapter's LoRA weights and head."""
        import torch
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise damaged(path, error) from None
        fresh = get_peft_model_state_dict(model, save_embedding_layers=False)
        wrong = [
            name
            for name in sorted({**fresh, **tensors})
            if name not in fresh or name not in tensors or fresh[name].shape != tensors[name].shape
        ]
        if wrong:
            raise UserError(
                f"--init_adapter：{path} 与这次的模型（--model_name、--target_modules）不是同样的层："
                f"{len(wrong)} 个权重对不上（{wrong[0]} 等）"
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise damaged(path, "有 NaN 或无穷大")
        set_peft_model_state_dict(model, tensors)


def find_start(
    config: TrainingConfig, lora: LoraSettings, data: dict[str, str], labels: list[str], keep_finished: bool = False
) -> tuple[FreshStart, Run, Path | None]:
    """The start with the commit of its base, the run, and the checkpoint of an interrupted run to go on with, or None.

    `data` are the fingerprints of the splits. Prints what the user should know of it; what does not fit together is a
    `UserError`. With `keep_finished` a finished run of the same settings is not begun anew: it is `start.finished`.
    """
    start = InitialAdapter(config) if config.init_adapter else FreshStart()
    run = Run(fingerprint(config, lora, data) | start.fingerprint)
    checkpoint, notes = choose_checkpoint(Path(config.output_dir), config.resume_from_checkpoint, run)
    folder, start.commit = find_model(config.model_name, recorded_commit(checkpoint) or start.commit)
    print(f"核对基座 {folder}……", flush=True)
    base = broadcast_from_main(base_facts(folder, start.commit) if is_main() else None)
    notes += keep_base(checkpoint, run, base)
    start.require_same(config, lora, labels, base)
    if keep_finished and not checkpoint and config.resume_from_checkpoint == RESUME_AUTO:
        start.finished = finished_run(Path(config.output_dir), run)
    for note in notes if start.finished is None else [f"{config.output_dir} 已经训练完，不再训练"]:
        print(note)
    return start, run, checkpoint


def _unfinished_runs(output_dir: Path) -> set[str]:
    """The `run_id` of each run that has left checkpoints and no mark of its end."""
    found = set()
    for checkpoint in find_checkpoints(output_dir):
        try:
            found.add(read_manifest(checkpoint)["run_id"])
        except (OSError, ValueError):  # a broken one, which is named when a checkpoint is chosen
            continue
    return found - {finished_run_id(output_dir)}
