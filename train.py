"""Fine-tune a Chinese sentiment classifier with LoRA or QLoRA, from top to bottom.

    python train.py                                   # Qwen2.5-1.5B, LoRA, ChnSentiCorp; one GPU
    python train.py --use_qlora                       # the same with a 4-bit base, for 4 to 6 GB
    python train.py --preset tiny                     # the embedded small model and reviews; a laptop
    python train.py --train_file my.csv --text_column 评论 --label_column 标签
    python train.py --init_adapter outputs/lora_adapter --train_file new.csv --output_dir outputs_new

Killed? Run the same command again: it goes on from the newest whole checkpoint.
"""

import time
from pathlib import Path
from typing import Any

from configs.command_line import help_text, parse_config
from configs.lora_config import LoraSettings
from configs.training_config import TrainingConfig
from runtime.errors import run_script
from runtime.file_lock import output_lock
from runtime.processes import is_main


def main() -> None:
    config, lora = parse_config(
        [TrainingConfig, LoraSettings],
        None,
        description=help_text(
            "用 LoRA 或 QLoRA 微调一个中文情感分类器。被中断后，重新运行同一命令即接着训练。", __doc__
        ),
        presets=True,
        inherit=settings_of_initial_adapter,
    )
    print("正在载入……", flush=True)
    with output_lock(config.output_dir):
        train(config, lora)


def settings_of_initial_adapter(given: dict[str, Any]) -> dict[str, Any]:
    """Defaults that come from `--init_adapter`."""
    if "init_adapter" not in given:
        return {}
    from training.initial_adapter import inherited_settings

    return inherited_settings(given)


def train(config: TrainingConfig, lora: LoraSettings) -> None:
    started = time.time()

    # Heavy imports stand here, so that --help and a mistyped flag answer at once.
    import torch

    from data.data_loader import fingerprints, load_splits
    from data.labels import describe_labels
    from model_evaluation.metrics.classification import classification_metrics
    from model_evaluation.metrics.terminal_table import metrics_table
    from modeling.adapter_folder import SentimentConfig, save_adapter
    from modeling.base_model import base_facts, find_model, lasting_name
    from modeling.lora import build_for_training
    from prediction.prediction_set import Predictions
    from runtime.distributed import broadcast_from_main, connect_processes, refuse_sharding
    from runtime.run_info import run_info
    from training.checkpoints import Run, choose_checkpoint, keep_base, mark_finished, recorded_commit
    from training.initial_adapter import starting_point
    from training.run_summary import describe_plan
    from training.tokenized_dataset import tokenize
    from training.trainer import build_trainer, fingerprint

    refuse_sharding()
    connect_processes()  # under torchrun or accelerate launch: the other processes

    # Data: texts and labels, the same each time.
    splits = load_splits(config)
    data = fingerprints(splits)

    # Is there an interrupted run of just these settings to go on with?
    output_dir = Path(config.output_dir)
    start = starting_point(config)
    run = Run(fingerprint(config, lora, data) | start.fingerprint)
    checkpoint, notes = choose_checkpoint(output_dir, config.resume_from_checkpoint, run)
    folder, commit = find_model(config.model_name, recorded_commit(checkpoint) or start.commit)
    base = broadcast_from_main(base_facts(folder, commit) if is_main() else None)
    notes += keep_base(checkpoint, run, base)
    for note in notes:
        print(note)

    # Model: the frozen base, and beside its linear layers small trained matrices: W x + (alpha / r) B A x.
    torch.manual_seed(config.seed)  # before the head and A are drawn
    labels = splits["train"].label_names
    template = config.template_for(labels)
    start.require_same(config, lora, labels, base)
    model, tokenizer = build_for_training(config, lora, labels, commit)
    start.load_into(model)

    # Tokens, Trainer, and what is going to happen.
    tokenized = {name: tokenize(rows, tokenizer, config.max_length, template) for name, rows in splits.items()}
    trainer = build_trainer(config, model, tokenizer, tokenized, run, checkpoint)
    print(describe_labels(splits["train"]))
    print(describe_plan(config, model, tokenized, trainer), flush=True)

    # Train; then back to the adapter that was best on the validation rows.
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model = trainer.finished_model()

    # Predict once, then measure.
    measured = {}
    for name in [name for name in splits if name != "train"]:
        logits = trainer.logits_of(tokenized[name], f"预测 {name}")
        predictions = Predictions(splits[name].texts, logits, splits[name].labels)
        measured[name] = classification_metrics(predictions, labels)

    # Save: the adapter folder appears whole or not at all.
    sentiment = SentimentConfig(
        base_model=lasting_name(config.model_name),
        base_revision=model.config.base_commit,
        labels=labels,
        max_length=config.max_length,
        quantization="nf4" if config.use_qlora else None,
        head=config.head,
        prompt_template=template,
        label_words=config.words_for(labels),
    )
    seconds = time.time() - started + trainer.loss_sum.seconds_before
    info = run_info(configs=[config, lora], run=run, data=data, seconds=seconds, metrics=measured)
    adapter = output_dir / "lora_adapter"
    if is_main():
        save_adapter(adapter, model, tokenizer, sentiment, splits["train"].texts, info, start.seen)
        mark_finished(output_dir, run)
        trainer.best.remove()

    print(metrics_table(measured))
    print(f"\n最好的适配器（第 {trainer.best.step} 步）在 {adapter}，用时 {seconds:.0f} 秒。")
    print(next_commands(config, has_test="test" in splits))


def next_commands(config: TrainingConfig, has_test: bool) -> str:
    """The commands to type after the training."""
    flags = "" if config.output_dir == "./outputs" else f" --model_path {Path(config.output_dir) / 'lora_adapter'}"
    test = "" if has_test else " --test_file 你的测试文件"
    return "\n".join([
        "接下来：",
        f"  python inference.py --interactive{flags}",
        f"  python model_evaluation/run_full_eval.py{flags}{test}",
    ])  # fmt: skip


if __name__ == "__main__":
    run_script(main)
